"""Login: how a host is reached: ssh_config, keys and known_hosts, by Fabric hop by hop or by OpenSSH's own master."""
