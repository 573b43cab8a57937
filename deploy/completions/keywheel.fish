# fish completion for keywheel

set -l commands serve init check status keys help version
set -l actions list add remove pause resume reset

complete -c keywheel -f
complete -c keywheel -l env-file -r -F -d 'Read the settings from this file'
complete -c keywheel -s h -l help -d 'Show a summary'
complete -c keywheel -s V -l version -d 'Show the version'
complete -c keywheel -n "not __fish_seen_subcommand_from $commands" -l demo -d 'Run in front of a fake provider'

complete -c keywheel -n "not __fish_seen_subcommand_from $commands" -a serve -d 'Run the proxy'
complete -c keywheel -n "not __fish_seen_subcommand_from $commands" -a init -d 'Ask for the settings and write them'
complete -c keywheel -n "not __fish_seen_subcommand_from $commands" -a check -d 'Ask whether each key works'
complete -c keywheel -n "not __fish_seen_subcommand_from $commands" -a status -d 'Show what the running proxy is doing'
complete -c keywheel -n "not __fish_seen_subcommand_from $commands" -a keys -d 'List and change the keys'
complete -c keywheel -n "not __fish_seen_subcommand_from $commands" -a help -d 'Show a summary'
complete -c keywheel -n "not __fish_seen_subcommand_from $commands" -a version -d 'Show the version'

complete -c keywheel -n '__fish_seen_subcommand_from init' -l system -d 'Write the settings of the service'
complete -c keywheel -n '__fish_seen_subcommand_from check' -l model -x -d 'Ask this model for one token'
complete -c keywheel -n '__fish_seen_subcommand_from check status list' -l json -d 'For scripts'
complete -c keywheel -n '__fish_seen_subcommand_from status' -l watch -d 'Keep the picture current'

set -l in_keys "__fish_seen_subcommand_from keys; and not __fish_seen_subcommand_from $actions"
complete -c keywheel -n "$in_keys" -a list -d 'List the keys'
complete -c keywheel -n "$in_keys" -a add -d 'Add keys'
complete -c keywheel -n "$in_keys" -a remove -d 'Remove a key'
complete -c keywheel -n "$in_keys" -a pause -d 'Take a key out of use'
complete -c keywheel -n "$in_keys" -a resume -d 'Take a key back into use'
complete -c keywheel -n "$in_keys" -a reset -d 'Forget the rests and verdicts of a key'
complete -c keywheel -n '__fish_seen_subcommand_from remove' -l yes -d 'Do not ask'
