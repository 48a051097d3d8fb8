"""What is brought to a host: releases, assets, environments, secrets."""
