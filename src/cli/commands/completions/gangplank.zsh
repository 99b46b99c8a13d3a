#compdef gangplank
# Completion of gangplank in zsh. It asks the program, so it need not change with it: the one that is installed, and never
# one that merely lies where the command line points to.
_gangplank() {
  local -a values shown
  local value text kind
  while IFS=$'\t' read -r value text; do
    case $value in
      :*) kind=$value ;;
      *)
        values+=("$value")
        shown+=("$value${text:+  -- $text}")
        ;;
    esac
  done < <(command gangplank completions --ask -- "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null </dev/null)
  case $kind in
    :*)
      # Of --flag=path, the path.
      [[ $PREFIX == --*=* ]] && compset -P 1 '*='
      if [[ $kind == :directories ]]; then _files -/; else _files; fi
      ;;
    *) compadd -l -V gangplank -d shown -a values ;;
  esac
}
if [[ $funcstack[1] == _gangplank ]]; then
  _gangplank "$@"
else
  compdef _gangplank gangplank
fi
