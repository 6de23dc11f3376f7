#!/usr/bin/env bash
# Makes container images from Debian's packages, so that a cluster without a registry has something
# to run: OCI archives `nginx.tar` and `busybox.tar` in the folder given. Names inside are those a
# user would pull (docker.io/library/nginx:1.22, docker.io/library/busybox:1.35).
#
# Needs: apt-get with package lists, dpkg-deb, tar, sha256sum. Installs nothing on the machine.
set -euo pipefail

out=${1:?usage: build.sh OUTPUT_FOLDER}
mkdir -p "$out"
out=$(cd "$out" && pwd)
[ -s "$out/nginx.tar" ] && [ -s "$out/busybox.tar" ] && exit 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# unpack ROOTFS PACKAGE… - the packages' files, without installing them.
unpack() {
  local rootfs=$1 package
  shift
  mkdir -p "$rootfs" "$work/debs"
  for package in "$@"; do
    ls "$work/debs/${package}_"*.deb >/dev/null 2>&1 ||
      (cd "$work/debs" && apt-get download -q "$package" >/dev/null 2>"$work/apt.log") ||
      { echo "cannot download Debian package $package (apt-get update?):" >&2; cat "$work/apt.log" >&2; exit 1; }
    dpkg-deb -x "$work/debs/${package}_"*.deb "$rootfs"
  done
  rm -rf "$rootfs/usr/share/"{doc,man,locale,lintian} "$rootfs/usr/lib/systemd" "$rootfs/lib/systemd"
}

# common ROOTFS - folders and accounts every image has, and busybox for a shell.
common() {
  local rootfs=$1 applet
  mkdir -p "$rootfs"/{bin,etc,tmp,run,root,proc,sys,dev,var/tmp,usr/bin}
  chmod 1777 "$rootfs/tmp" "$rootfs/var/tmp"
  unpack "$rootfs" busybox-static
  for applet in $("$rootfs/bin/busybox" --list); do
    [ -e "$rootfs/bin/$applet" ] || ln -s busybox "$rootfs/bin/$applet"
  done
  printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\nwww-data:x:33:33::/var/www:/bin/false\n' >"$rootfs/etc/passwd"
  printf 'root:x:0:\nnogroup:x:65534:\nwww-data:x:33:\n' >"$rootfs/etc/group"
}

# blob LAYOUT FILE - moves FILE into the layout and prints "digest size".
blob() {
  local digest size
  digest=$(sha256sum "$2" | cut -d' ' -f1)
  size=$(stat -c %s "$2")
  mv "$2" "$1/blobs/sha256/$digest"
  echo "sha256:$digest $size"
}

# pack ROOTFS ARCHIVE NAME CONFIG - one layer, one manifest, one name.
pack() {
  local rootfs=$1 archive=$2 name=$3 config=$4 layout=$work/layout digest size config_digest config_size
  rm -rf "$layout"
  mkdir -p "$layout/blobs/sha256"
  tar --numeric-owner --owner=0 --group=0 --sort=name --mtime=@1700000000 -C "$rootfs" -cf "$work/layer.tar" .
  read -r digest size < <(blob "$layout" "$work/layer.tar")
  printf '{"architecture":"%s","os":"linux","config":%s,"rootfs":{"type":"layers","diff_ids":["%s"]}}' \
    "$(dpkg --print-architecture)" "$config" "$digest" >"$work/config.json"
  read -r config_digest config_size < <(blob "$layout" "$work/config.json")
  printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%s","size":%s},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"%s","size":%s}]}' \
    "$config_digest" "$config_size" "$digest" "$size" >"$work/manifest.json"
  read -r digest size < <(blob "$layout" "$work/manifest.json")
  printf '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"%s","size":%s,"annotations":{"io.containerd.image.name":"%s","org.opencontainers.image.ref.name":"%s"}}]}' \
    "$digest" "$size" "$name" "${name##*:}" >"$layout/index.json"
  echo '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
  tar -C "$layout" -cf "$archive.part" .
  mv "$archive.part" "$archive"
}

busybox=$work/busybox
common "$busybox"
pack "$busybox" "$out/busybox.tar" docker.io/library/busybox:1.35 '{"Cmd":["sh"],"Env":["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}'

nginx=$work/nginx
unpack "$nginx" nginx nginx-common libc6 libpcre2-8-0 libssl3 zlib1g libcrypt1
common "$nginx"
mkdir -p "$nginx"/{var/log/nginx,var/lib/nginx,etc/nginx/conf.d,usr/share/nginx/html}
rm -rf "$nginx/etc/nginx/sites-enabled" "$nginx/etc/nginx/modules-enabled"
cat >"$nginx/etc/nginx/nginx.conf" <<'CONF'
worker_processes 1;
error_log /dev/stderr notice;
pid /run/nginx.pid;
events { worker_connections 512; }
http {
  include mime.types;
  access_log /dev/stdout;
  include /etc/nginx/conf.d/*.conf;
}
CONF
cat >"$nginx/etc/nginx/conf.d/default.conf" <<'CONF'
server {
  listen 80;
  root /usr/share/nginx/html;
  add_header X-Pod $hostname;
}
CONF
cat >"$nginx/usr/share/nginx/html/index.html" <<'PAGE'
<!DOCTYPE html>
<html>
<head><title>Welcome to nginx!</title></head>
<body><h1>Welcome to nginx!</h1><p>Thank you for using nginx.</p></body>
</html>
PAGE
pack "$nginx" "$out/nginx.tar" docker.io/library/nginx:1.22 \
  '{"Cmd":["/usr/sbin/nginx","-g","daemon off;"],"Env":["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],"ExposedPorts":{"80/tcp":{}},"StopSignal":"SIGQUIT"}'
