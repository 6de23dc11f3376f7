#!/usr/bin/env bash
# Puts a kubectl at the path given, from Debian's package, without installing the package.
set -euo pipefail
target=${1:?usage: kubectl.sh PATH}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
apt-get update -q >/dev/null
apt-get download -q kubernetes-client >/dev/null
dpkg-deb -x kubernetes-client_*.deb root
install -m 0755 root/usr/bin/kubectl "$target"
