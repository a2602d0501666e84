#!/usr/bin/env bash
# Writes docs/files.md, the map of the sources: each file with the first sentence of its own `//!`.
#
#   scripts/map.sh            writes it
#   scripts/map.sh --check    fails if it isn't up to date
set -euo pipefail
source "$(dirname "$0")/env.sh"
cd "$HOLDFAST_ROOT"
doc=docs/files.md

# The first sentence of what a file says of itself.
sentence() {
  awk '
    /^\/\/! ?[^ ]/ { sub(/^\/\/! ?/, ""); text = text (text ? " " : "") $0; next }
    { exit }
    END {
      if (match(text, /[.:] [A-Z]/)) text = substr(text, 1, RSTART)
      sub(/:$/, ".", text); gsub(/\[`/, "`", text); gsub(/`\]/, "`", text)
      print text
    }' "$1"
}

map() {
  local file folder last=
  while IFS= read -r file; do
    folder=$(dirname "$file")
    if [[ $folder != "$last" ]]; then printf '\n`%s/`\n\n' "$folder"; last=$folder; fi
    printf -- '- `%s`: %s\n' "$(basename "$file")" "$(sentence "$file")"
  done < <(find agent fuzz tests examples -name '*.rs' -not -path '*/target/*' \
    -not -name tests.rs -not -name '*_tests.rs' 2>/dev/null | sed 's|/\([^/]*\)$|/ \1|' | LC_ALL=C sort | sed 's|/ |/|')
}

new=$(mktemp)
trap 'rm -f "$new"' EXIT
{
  printf '# Every file of the sources\n\nMade by `scripts/map.sh` from what each file says of itself. docs/ARCHITECTURE.md has the whole.\n'
  map
} >"$new"
case ${1:-} in
  --check) cmp -s "$new" "$doc" || die "the map in $doc is not up to date: run scripts/map.sh" ;;
  "") cat "$new" >"$doc" ;;
  *) die "unknown argument $1; usage: $0 [--check]" ;;
esac
