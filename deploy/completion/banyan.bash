# bash completion for banyan; made by scripts/command_docs.py
_banyan() {
  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command="" words="" files="" i
  COMPREPLY=()
  # "--form=lo" is three words to bash.
  if [[ $word == = ]]; then
    word=""
  elif [[ $before == = ]]; then
    before=${COMP_WORDS[COMP_CWORD - 2]}
  fi
  for ((i = 1; i < COMP_CWORD; ++i)); do
    case ${COMP_WORDS[i]} in
      --against | --ca-file | --config | --containerd | --count | --creds-file | --data-root | --dir | --entrypoint | --env | --form | --jobs | --level | --limit | --manager | --max-entries | --max-layer-bytes | --max-ratio | --max-ratio-free-bytes | --mirror | --nodes | --original | --peer-to-peer | --platform | --proxy | --read-ahead-kib | --registry | --root | --sign-key | --snapshotter-root | --snapshotter-socket | --stripe | --tag | --token-file | --user | --workdir | --zone | -e | -n | -u | -w)
        [[ ${COMP_WORDS[i + 1]} != = ]] || ((++i))
        ((++i))
        ;;
      -*) ;;
      *)
        command=${COMP_WORDS[i]}
        break
        ;;
    esac
  done
  case "$command $before" in
    *" --data-root") _banyan_files; return ;;
    *" --creds-file") _banyan_files; return ;;
    *" --ca-file") _banyan_files; return ;;
    "convert --tag") return ;;
    "convert --platform") return ;;
    "convert --level") return ;;
    "convert --jobs") return ;;
    "convert --sign-key") _banyan_files; return ;;
    "convert --max-layer-bytes") return ;;
    "convert --max-entries") return ;;
    "convert --max-ratio") return ;;
    "convert --max-ratio-free-bytes") return ;;
    "conversions --proxy") return ;;
    "conversions --limit"|"conversions -n") return ;;
    "keys --dir") _banyan_files; return ;;
    "inspect --against") return ;;
    "inspect --platform") return ;;
    "verify --original") return ;;
    "verify --platform") return ;;
    "verify --form") mapfile -t COMPREPLY < <(compgen -W "auto file loop tree" -- "$word"); return ;;
    "extract --platform") return ;;
    "mount --form") mapfile -t COMPREPLY < <(compgen -W "auto file loop tree" -- "$word"); return ;;
    "mount --read-ahead-kib") return ;;
    "run --env"|"run -e") return ;;
    "run --entrypoint") return ;;
    "run --workdir"|"run -w") return ;;
    "run --user"|"run -u") return ;;
    "run --form") mapfile -t COMPREPLY < <(compgen -W "auto file loop tree" -- "$word"); return ;;
    "pull --containerd") _banyan_files; return ;;
    "starts --limit"|"starts -n") return ;;
    "doctor --containerd") _banyan_files; return ;;
    "doctor --config") _banyan_files; return ;;
    "install --config") _banyan_files; return ;;
    "install --snapshotter-socket") _banyan_files; return ;;
    "install --snapshotter-root") _banyan_files; return ;;
    "install --mirror") return ;;
    "install --registry") return ;;
    "install --root") _banyan_files; return ;;
    "tree --stripe") return ;;
    "tree --manager") return ;;
    "tree --token-file") _banyan_files; return ;;
    "nodes --peer-to-peer") mapfile -t COMPREPLY < <(compgen -W "on off" -- "$word"); return ;;
    "nodes --manager") return ;;
    "nodes --token-file") _banyan_files; return ;;
    "drain --manager") return ;;
    "drain --token-file") _banyan_files; return ;;
    "preheat --nodes") return ;;
    "preheat --zone") return ;;
    "preheat --count") return ;;
    "preheat --manager") return ;;
    "preheat --token-file") _banyan_files; return ;;
  esac
  case $command in
    "") words="--help -h --version --data-root --plain-http --creds-file --ca-file --json --quiet -q convert conversions keys inspect verify extract mount umount ls stats scrub run pull starts info prefetch pin unpin drop doctor install tree nodes drain preheat" ;;
    convert) words="--help -h --tag --platform --level --jobs --sign-key --force --max-layer-bytes --max-entries --max-ratio --max-ratio-free-bytes --version --data-root --plain-http --creds-file --ca-file --json --quiet -q" ;;
    conversions) words="--help -h --proxy --watch --limit -n --version --data-root --plain-http --creds-file --ca-file --json --quiet -q" ;;
    keys) words="--help -h --dir generate rotate list public --version --data-root --plain-http --creds-file --ca-file --json --quiet -q" ;;
    inspect) words="--help -h --against --platform --version --data-root --plain-http --creds-file --ca-file --json --quiet -q" ;;
    verify) words="--help -h --original --platform --mount --form --version --data-root --plain-http --creds-file --ca-file --json --quiet -q" ;;
    extract) words="--help -h --platform --version --data-root --plain-http --creds-file --ca-file --json --quiet -q"; files=yes ;;
    mount) words="--help -h --form --fill --read-ahead-kib --version --data-root --plain-http --creds-file --ca-file --json --quiet -q"; files=yes ;;
    umount) words="--help -h --force --version --data-root --plain-http --creds-file --ca-file --json --quiet -q"; files=yes ;;
    ls) words="--help -h --version --data-root --plain-http --creds-file --ca-file --json --quiet -q" ;;
    stats) words="--help -h --version --data-root --plain-http --creds-file --ca-file --json --quiet -q"; files=yes ;;
    scrub) words="--help -h --version --data-root --plain-http --creds-file --ca-file --json --quiet -q" ;;
    run) words="--help -h --env -e --entrypoint --workdir -w --user -u --form --fill --tty -t --version --data-root --plain-http --creds-file --ca-file --json --quiet -q" ;;
    pull) words="--help -h --containerd --version --data-root --plain-http --creds-file --ca-file --json --quiet -q" ;;
    starts) words="--help -h --limit -n --version --data-root --plain-http --creds-file --ca-file --json --quiet -q" ;;
    info) words="--help -h --version --data-root --plain-http --creds-file --ca-file --json --quiet -q" ;;
    prefetch) words="--help -h --version --data-root --plain-http --creds-file --ca-file --json --quiet -q" ;;
    pin) words="--help -h --version --data-root --plain-http --creds-file --ca-file --json --quiet -q" ;;
    unpin) words="--help -h --version --data-root --plain-http --creds-file --ca-file --json --quiet -q" ;;
    drop) words="--help -h --version --data-root --plain-http --creds-file --ca-file --json --quiet -q" ;;
    doctor) words="--help -h --containerd --config --no-containerd --version --data-root --plain-http --creds-file --ca-file --json --quiet -q" ;;
    install) words="--help -h --containerd --uninstall --dry-run --yes -y --config --snapshotter-socket --snapshotter-root --mirror --no-mirror --registry --root --version --data-root --plain-http --creds-file --ca-file --json --quiet -q" ;;
    tree) words="--help -h --stripe --all --ascii --manager --token-file --version --data-root --plain-http --creds-file --ca-file --json --quiet -q" ;;
    nodes) words="--help -h --peer-to-peer --manager --token-file --version --data-root --plain-http --creds-file --ca-file --json --quiet -q" ;;
    drain) words="--help -h --undo --manager --token-file --version --data-root --plain-http --creds-file --ca-file --json --quiet -q" ;;
    preheat) words="--help -h --nodes --zone --count --detach --manager --token-file --version --data-root --plain-http --creds-file --ca-file --json --quiet -q" ;;
  esac
  if [[ $files && $word != -* ]]; then
    _banyan_files
  else
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
  fi
}
_banyan_files() {
  compopt -o filenames 2>/dev/null
  mapfile -t COMPREPLY < <(compgen -f -- "$word")
}
complete -F _banyan banyan
