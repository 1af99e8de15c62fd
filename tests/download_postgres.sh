#!/bin/sh
# Downloads Debian's PostgreSQL server, and the libraries that this machine lacks for it, as packages for the tests to
# unpack: no root, and nothing is installed. Does nothing where a PostgreSQL server is installed.
#   tests/download_postgres.sh FOLDER
set -eu
folder=$1
if command -v postgres >/dev/null || ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1; then
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
# The compiler (llvm) is only for long queries; clusters and clients of Debian's own are not needed either.
names=$(apt install --simulate --no-install-recommends postgresql |
    sed -nE '/llvm/d; s/^Inst ((postgresql-[0-9]|lib)[^ ]*) .*/\1/p')
(cd "$work/packages" && apt download $names)
mkdir -p "$folder"
mv "$work"/packages/*.deb "$folder"
