#!/usr/bin/env bash
# docs/man, docs/configuration.md and deploy/completion are what scripts/command_docs.py makes of the programs as they are
# now; man renders the pages without a warning; bash, zsh and fish complete commands, options and values by them.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/e2e.sh"
for program in man col zsh fish; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit $SKIP; }
done
completion=$SOURCE_DIR/deploy/completion

log "up to date"
python3 -B "$SOURCE_DIR/scripts/command_docs.py" "$BANYAN_BIN" "$WORK/made"
(cd "$WORK/made" && find . -type f | sort) >"$WORK/files"
(($(wc -l <"$WORK/files") > 25)) || fail "only $(wc -l <"$WORK/files") files were made"
while read -r file; do
  diff -u "$SOURCE_DIR/$file" "$WORK/made/$file" >&2 || fail "$file is out of date: scripts/command_docs.py $BANYAN_BIN"
done <"$WORK/files"
while read -r file; do
  [[ -e $WORK/made/$file ]] || fail "$file belongs to nothing any more"
done < <(cd "$SOURCE_DIR" && find docs/man deploy/completion -type f)

log "man pages"
export LC_ALL=C.UTF-8 MANWIDTH=80
for page in "$SOURCE_DIR"/docs/man/*; do
  man --warnings -E UTF-8 -l -Tutf8 -Z "$page" 2>"$WORK/warnings" >/dev/null || fail "man cannot render $page"
  [[ ! -s $WORK/warnings ]] || fail "man warns of $page: $(head -n 3 "$WORK/warnings")"
done
man -l "$SOURCE_DIR/docs/man/banyan-mount.1" | col -bx | tr -s ' \n' ' ' >"$WORK/page"
for words in "NAME banyan-mount - mount an image" "banyan mount [option]... REF DIR" "--form auto|file|loop|tree" \
  "banyan mount --form loop oci:/srv/images:app /mnt/app" "Default: 1024."; do
  grep -qF -- "$words" "$WORK/page" || fail "banyan-mount(1) does not say '$words': $(cat "$WORK/page")"
done

# offers SHELL LINE WORD…: TAB behind LINE shows all the words. bash and zsh in a terminal; fish has a command for it.
offers() {
  local shell=$1 line=$2 word offered
  shift 2
  case $shell in
    bash) python3 -B "$SOURCE_DIR/tests/docs/complete.py" bash "$completion/banyan.bash" "$line" "$@" || exit 1 ;;
    zsh) python3 -B "$SOURCE_DIR/tests/docs/complete.py" zsh "$completion/_banyan" "$line" "$@" || exit 1 ;;
    fish)
      # shellcheck disable=SC2016
      offered=$(HOME=$WORK fish --no-config -c 'source $argv[1]; complete -C $argv[2]' "$completion/banyan.fish" "$line" | cut -f1)
      for word in "$@"; do grep -qx -- "$word" <<<"$offered" || fail "fish: behind '$line' there is no $word, but: $offered"; done
      ;;
  esac
}
mkdir "$WORK/here" "$WORK/here/some dir"
cd "$WORK/here"
for shell in bash zsh fish; do
  log "$shell"
  offers "$shell" "banyan " mount umount tree doctor convert
  offers "$shell" "banyan mount --f" --form --fill
  offers "$shell" "banyan mount --form " auto file loop tree
  offers "$shell" "banyan keys " generate rotate list public
done
offers bash "banyan mount --form=" auto file loop tree
offers bash "banyan --data-root /x tre" tree
offers bash "banyan umount so" 'some\ dir/'
offers zsh "banyan mount --form=" auto file loop tree
offers zsh "banyan umount so" 'some\ dir/'
log "all well"
