#!/bin/sh
# A Debian package of harvestd, from the root of the repository or anywhere:
#   cargo install cargo-deb && deploy/debian/build.sh
# Options go to `cargo deb` (such as --output FOLDER). The package is of this machine's architecture and C library.
set -eu
cd "$(dirname "$0")/../.."
target=$(cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
cargo build --release --locked
program="$target/release/harvestd"
files="$target/release/deb-files"
rm -rf "$files"
mkdir -p "$files"
"$program" man "$files/man"
gzip -9n "$files"/man/*.1
"$program" completions bash > "$files/harvestd.bash"
"$program" completions zsh > "$files/_harvestd"
"$program" completions fish > "$files/harvestd.fish"
cargo deb --no-build "$@"
