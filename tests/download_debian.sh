#!/bin/sh
# Downloads a program of Debian's, and the libraries that this machine lacks for it, as packages for the tests to
# unpack: no root, and nothing is installed. Does nothing where the program is installed.
#   tests/download_debian.sh FOLDER PROGRAM PACKAGE NAMES
# NAMES: an extended regular expression; of what Debian would install, the packages that begin with it are downloaded.
set -eu
folder=$1 program=$2 package=$3 names=$4
if command -v "$program" >/dev/null || ls /usr/lib/"$package"/*/bin/"$program" >/dev/null 2>&1; then
    exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/packages"
apt() {
    apt-get -qq -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" -o Debug::NoLocking=1 \
        -o APT::Sandbox::User= "$@"
}
apt update
wanted=$(apt install --simulate --no-install-recommends "$package" |
    sed -nE "/llvm/d; s/^Inst (($names)[^ ]*) .*/\1/p") # the compiler is only for long queries of PostgreSQL
(cd "$work/packages" && apt download $wanted)
rm -rf "$folder.part"
mv "$work/packages" "$folder.part" # half of them would be taken for all
mv "$folder.part" "$folder"
