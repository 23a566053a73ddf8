#!/bin/sh
# Makes the root folder of the image: the binary, the libraries that it is linked with, the system's authorities, a user. No shell, no
# package manager, no tool. Usage: root.sh BINARY FOLDER. The libraries are those of this machine: Debian 12 in Containerfile.
set -eu
binary=$1 root=$2
rm -rf "$root"
install -D -m 0755 "$binary" "$root/usr/local/bin/longhaul"
# Names of functions stay, for backtraces; what only a debugger reads goes.
strip --strip-debug "$root/usr/local/bin/longhaul"
# Lines are `name => /path (address)`, or the loader's own path.
ldd "$binary" | awk '$2 == "=>" && $3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }' | while read -r library; do
    install -D -m 0755 "$(readlink -f "$library")" "$root$library"
done
install -D -m 0644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
echo 'longhaul:x:65532:65532::/nonexistent:/nonexistent' >"$root/etc/passwd"
echo 'longhaul:x:65532:' >"$root/etc/group"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
mkdir -m 0755 "$root/etc/longhaul"
find "$root" -type d -exec chmod 0755 {} +
