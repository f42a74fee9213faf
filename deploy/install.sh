#!/usr/bin/env bash
# Installs Aspen on a machine with systemd, or takes it away again: `make install`, `make uninstall`. `files` is all
# but the program, for packages that bring it otherwise.
#
#   PREFIX    where it goes                                            [/usr/local]
#   DESTDIR   a folder that stands for /, when a package is built      [none]
#   PYTHON    the interpreter that will run it, 3.11 or newer          [python3]
#   EXTRAS    optional parts to install with it, separated by commas   [acme]
#   PIP_ARGS  more arguments for pip, as --no-index --find-links=… where there is no network
#   UNITDIR, SYSUSERSDIR, TMPFILESDIR: where systemd looks, if not below PREFIX
#
# What is there already of /etc/aspen and /var/lib/aspen is never touched.
set -euo pipefail

source_dir="$(cd "$(dirname "$0")/.." && pwd)"
prefix="${PREFIX:-/usr/local}"
destdir="${DESTDIR:-}"
python="${PYTHON:-python3}"
extras="${EXTRAS-acme}"
home="$prefix/lib/aspen"
doc="$prefix/share/doc/aspen"
unitdir="${UNITDIR:-$prefix/lib/systemd/system}"
sysusersdir="${SYSUSERSDIR:-$prefix/lib/sysusers.d}"
tmpfilesdir="${TMPFILESDIR:-$prefix/lib/tmpfiles.d}"
units=("$source_dir"/deploy/systemd/*.service "$source_dir"/deploy/systemd/*.socket)

install_program() {
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Aspen needs Python 3.11 or newer (set PYTHON=…)." >&2
    exit 1
  }
  mkdir -p "$destdir$prefix/lib" "$destdir$prefix/bin"
  case "$("$python" -c 'import os, sys; print(os.path.realpath(sys.base_prefix))')" in
    /root/* | /home/*)
      echo "The service sees nothing of /root and /home, where $python lives: set PYTHON=/usr/bin/python3, say." >&2
      exit 1
      ;;
  esac
  rm -rf "$destdir$home.new"
  # Aside, and into its place at the end: what runs meanwhile goes on with the old one.
  "$python" -m venv "$destdir$home.new"
  PIP_CONSTRAINT="$source_dir/constraints.txt" PIP_BUILD_CONSTRAINT="$source_dir/constraints.txt" \
    "$destdir$home.new/bin/pip" install --quiet --disable-pip-version-check --no-warn-script-location \
    --no-compile ${PIP_ARGS:-} "$source_dir${extras:+[$extras]}"
  # The paths that will hold where it runs.
  grep -rlIF "$destdir$home.new" "$destdir$home.new/bin" "$destdir$home.new/pyvenv.cfg" |
    xargs -r sed -i "s#$destdir$home.new#$home#g"
  # The service may not write here: what it would compile at each start is compiled now.
  "$python" -m compileall -q -j 0 -s "$destdir$home.new" -p "$home" "$destdir$home.new/lib"
  rm -rf "$destdir$home.old"
  [[ ! -e "$destdir$home" ]] || mv "$destdir$home" "$destdir$home.old"
  mv "$destdir$home.new" "$destdir$home"
  rm -rf "$destdir$home.old"
  ln -sfn "$home/bin/aspen" "$destdir$prefix/bin/aspen"
  ln -sfn "$home/bin/aspen-node" "$destdir$prefix/bin/aspen-node"
}

install_files() {
  install -d "$destdir$unitdir" "$destdir$sysusersdir" "$destdir$tmpfilesdir" "$destdir$doc"
  install -d -m 0750 "$destdir/etc/aspen"
  for unit in "${units[@]}"; do
    sed "s#/usr/local/#$prefix/#g" "$unit" >"$destdir$unitdir/$(basename "$unit")"
    chmod 0644 "$destdir$unitdir/$(basename "$unit")"
  done
  install -m 0644 "$source_dir/deploy/systemd/aspen.sysusers.conf" "$destdir$sysusersdir/aspen.conf"
  install -m 0644 "$source_dir/deploy/systemd/aspen.tmpfiles.conf" "$destdir$tmpfilesdir/aspen.conf"
  install -m 0644 "$source_dir/LICENSE" "$destdir$doc"
  # Pages, and the pictures in them.
  (cd "$source_dir/docs" && find . -type f \( -name '*.md' -o -name '*.svg' -o -name '*.png' \) \
    -exec install -D -m 0644 {} "$destdir$doc/{}" \;)
  for file in aspen.toml aspen.env; do
    [[ -e "$destdir/etc/aspen/$file" ]] ||
      install -m 0640 "$source_dir/deploy/systemd/$file" "$destdir/etc/aspen/$file"
  done
}

tell_systemd() {
  [[ -z "$destdir" && -d /run/systemd/system ]] || return 0
  if [[ "$1" == install ]]; then
    systemd-sysusers "$sysusersdir/aspen.conf"
    systemd-tmpfiles --create "$tmpfilesdir/aspen.conf"
  fi
  systemctl daemon-reload
}

case "${1:-}" in
  install)
    install_program
    install_files
    tell_systemd install
    echo "Aspen is in $home. Next: a cookie in /etc/aspen/aspen.env, the settings in /etc/aspen/aspen.toml, then"
    echo "  systemctl enable --now aspen.service"
    ;;
  files)
    install_files
    ;;
  uninstall)
    if [[ -z "$destdir" && -d /run/systemd/system ]]; then
      systemctl disable --now aspen.service aspen-{dns,https,dot,doq}.socket 2>/dev/null || true
    fi
    for unit in "${units[@]}"; do rm -f "$destdir$unitdir/$(basename "$unit")"; done
    rm -f "$destdir$sysusersdir/aspen.conf" "$destdir$tmpfilesdir/aspen.conf"
    rm -f "$destdir$prefix/bin/aspen" "$destdir$prefix/bin/aspen-node"
    rm -rf "${destdir}$home" "${destdir}$doc"
    tell_systemd uninstall
    echo "Aspen is gone. Its settings in /etc/aspen and its data in /var/lib/aspen are still there."
    ;;
  *)
    echo "usage: $0 install|files|uninstall" >&2
    exit 2
    ;;
esac
