# bash completion for keywheel

_keywheel() {
  local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
  local index command='' action='' options='--env-file --help'
  COMPREPLY=()
  if [[ $previous == --env-file ]]; then
    compopt -o filenames
    mapfile -t COMPREPLY < <(compgen -f -- "$word")
    return
  fi
  [[ $previous == --model ]] && return
  for ((index = 1; index < COMP_CWORD; index++)); do
    case ${COMP_WORDS[index]} in
      --env-file | --model) ((index += 1)) ;;
      -*) ;;
      *)
        if [[ -z $command ]]; then
          command=${COMP_WORDS[index]}
        elif [[ -z $action ]]; then
          action=${COMP_WORDS[index]}
        fi
        ;;
    esac
  done
  case $command in
    '') options+=' serve init check status keys help version --demo --version' ;;
    init) options+=' --system --yes' ;;
    check) options+=' --model --json' ;;
    status) options+=' --watch --json' ;;
    keys)
      case $action in
        '') options+=' list add remove pause resume reset' ;;
        list) options+=' --json' ;;
        remove) options+=' --yes' ;;
      esac
      ;;
  esac
  mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
}

complete -F _keywheel keywheel
