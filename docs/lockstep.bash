# SPDX-License-Identifier: BSD-2-Clause
# Completion for bash: commands and options from the program's own help, names from the run directory.
_lockstep()
{
	local cur=${COMP_WORDS[COMP_CWORD]} cmd=${COMP_WORDS[1]} i dir
	COMPREPLY=()
	if [ "$COMP_CWORD" -eq 1 ]; then
		COMPREPLY=($(compgen -W "$(lockstep help 2>/dev/null | sed -n 's/^  \([a-z]*\) .*/\1/p')" -- "$cur"))
		return
	fi
	# Behind the -- of run it is QEMU's command line.
	for ((i = 2; i < COMP_CWORD; i++)); do
		[ "${COMP_WORDS[i]}" != -- ] || { COMPREPLY=($(compgen -c -f -- "$cur")); return; }
	done
	case ${COMP_WORDS[COMP_CWORD - 1]} in
	--point)
		COMPREPLY=($(compgen -W "client pvm svm released client,released pvm,svm all" -- "$cur"))
		return ;;
	-w | --write | --config | --socket | --psk-file)
		COMPREPLY=($(compgen -f -- "$cur"))
		return ;;
	--tls-dir)
		COMPREPLY=($(compgen -d -- "$cur"))
		return ;;
	--format)
		COMPREPLY=($(compgen -W "raw qcow2 qed vdi vhdx vmdk vpc" -- "$cur"))
		return ;;
	esac
	case $cur in
	-*)
		COMPREPLY=($(compgen -W "$(lockstep help "$cmd" 2>/dev/null | sed -n 's/^  \(--[a-z-]*\).*/\1/p')" -- "$cur"))
		return ;;
	esac
	case $cmd in
	rule)
		case ${COMP_WORDS[COMP_CWORD - 1]} in
		add | [0-9] | [0-9][0-9])
			# A rule is one word of several parts: only its beginning.
			COMPREPLY=($(compgen -W "compare bypass hold" -- "$cur"))
			return ;;
		insert | delete) return ;;
		esac
		COMPREPLY=($(compgen -W "list add insert delete clear" -- "$cur")) ;;
	set)
		compopt -o nospace
		COMPREPLY=($(compgen -W "checkpoint-delay= compare-timeout= expired-scan-cycle= max-queue-size=" -- "$cur")) ;;
	esac
	case $cmd in
	help)
		COMPREPLY=($(compgen -W "$(lockstep help 2>/dev/null | sed -n 's/^  \([a-z]*\) .*/\1/p')" -- "$cur")) ;;
	doctor)
		COMPREPLY=($(compgen -c -f -- "$cur")) ;;
	nbd)
		COMPREPLY=($(compgen -f -- "$cur")) ;;
	status | checkpoint | failover | stop | cont | powerdown | reset | set | rule | events | blackbox | capture | quit)
		dir=${LOCKSTEP_RUN_DIR:-/run/lockstep}
		[ -n "$LOCKSTEP_RUN_DIR" ] || [ "$(id -u)" = 0 ] || dir=$XDG_RUNTIME_DIR/lockstep
		COMPREPLY+=($(cd "$dir" 2>/dev/null && compgen -G "$cur*.sock" | sed 's/\.sock$//'))
		[ "$cmd" != blackbox ] ||
			COMPREPLY+=($(cd "$dir" 2>/dev/null && compgen -G "$cur*.blackbox" | sed 's/\.blackbox$//') $(compgen -f -- "$cur"))
		;;
	esac
}
complete -o default -F _lockstep lockstep
