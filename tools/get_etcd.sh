#!/bin/sh
# Unpacks Debian's or Ubuntu's etcd-server into the directory $1: get_etcd.sh DIRECTORY
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
[ "$(id -u)" -ne 0 ] || [ -n "$(apt-cache policy etcd-server 2>/dev/null)" ] || apt-get update -qq
(cd "$folder" && apt-get download -qq -o APT::Sandbox::User=root etcd-server)
mkdir -p "$1"
dpkg -x "$folder"/etcd-server_*.deb "$1"
"$1/usr/bin/etcd" --version >/dev/null
