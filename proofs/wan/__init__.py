"""WAN lab: laptop -> jump -> gpu in three network namespaces, with delay, rate and loss between them."""
