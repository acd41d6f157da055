# Sourced: need_packages WHAT PACKAGE... installs Debian packages as root, or names the missing ones in one line.
need_packages() {
  local what=$1 missing=() package
  shift
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing for $what: ${missing[*]}"
    apt-get update -qq || true
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null && return 0
  fi
  echo "**** LEFT OUT: $what. Missing packages: sudo apt-get install ${missing[*]}" >&2
  return 0
}
