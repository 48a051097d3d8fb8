"""Delivery: what is sent to a host: releases, assets, environments, secrets."""
