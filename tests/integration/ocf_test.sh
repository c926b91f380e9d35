#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
#
# ocf_test.sh - the Pacemaker resource agent against a node that is made up: ocf-tester, the metadata against the API's DTD,
# and return codes that ocf-tester does not ask for. 77: what it needs is not installed.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
agent=$root/integration/pacemaker/lockstep
dtd=/usr/share/resource-agents/ra-api-1.dtd
PATH=$PATH:/usr/sbin
for tool in ocf-tester xmllint; do
	command -v "$tool" >/dev/null || { echo "no $tool: skipped"; exit 77; }
done
if [ "$(id -u)" != 0 ] || [ ! -r /usr/lib/ocf/lib/heartbeat/ocf-shellfuncs ]; then
	echo "needs root and resource-agents: skipped"
	exit 77
fi

dir=$(mktemp -d)
# ocf-tester tries some actions as a user who may not be able to reach where this tree lies.
chmod 755 "$dir"
cp "$agent" "$root/tests/integration/fake_lockstep" "$dir"
agent=$dir/lockstep
trap 'rm -f "$dir/web.state"; sleep 0.3; rm -rf "$dir"' EXIT
: >"$dir/web.conf"
export OCF_ROOT=/usr/lib/ocf OCF_RESOURCE_INSTANCE=web
export OCF_RESKEY_name=web OCF_RESKEY_config="$dir/web.conf" OCF_RESKEY_run_dir="$dir" OCF_RESKEY_log="$dir/log"
export OCF_RESKEY_binary="$dir/fake_lockstep"

# expect RC ACTION: what an action returns
expect() {
	rc=0
	"$agent" "$2" >"$dir/out" 2>&1 </dev/null || rc=$?
	[ "$rc" = "$1" ] || {
		echo "FAILED: $2 returned $rc, not $1"
		cat "$dir/out"
		exit 1
	}
}

"$agent" meta-data | xmllint --noout --nonet --dtdvalid "$dtd" --path "$(dirname "$dtd")" -

ocf-tester -n web -o name=web -o config="$dir/web.conf" -o run_dir="$dir" -o log="$dir/log" \
	-o binary="$OCF_RESKEY_binary" "$agent" >"$dir/tester" 2>&1 </dev/null || {
	cat "$dir/tester"
	exit 1
}
tail -n 1 "$dir/tester"

expect 7 monitor
expect 0 stop
expect 7 demote
expect 1 promote
expect 0 start
expect 0 monitor
# A hand-over that Lockstep refuses is asked for again, and never forced: it would end the VM here, and begin it nowhere.
: >"$dir/no-witness"
rm -f "$dir/asked" "$dir/forced"
"$agent" promote >"$dir/out" 2>&1 </dev/null &
pid=$!
for _ in $(seq 200); do
	[ ! -e "$dir/asked" ] || break
	sleep 0.1
done
rm -f "$dir/asked"
for _ in $(seq 200); do
	[ ! -e "$dir/asked" ] || break
	kill -0 "$pid" 2>/dev/null || break
	sleep 0.1
done
rm "$dir/no-witness"
wait "$pid" || { echo "FAILED: promote, once the witness was back"; cat "$dir/out"; exit 1; }
[ ! -e "$dir/forced" ] || { echo "FAILED: the takeover was forced"; exit 1; }
# It has taken over by itself: seen by a probe, and no failure for who thinks that it stands by.
echo "primary alone failed over" >"$dir/web.state"
expect 8 monitor
OCF_RESKEY_CRM_meta_role=Promoted expect 8 monitor
OCF_RESKEY_CRM_meta_role=Unpromoted expect 0 monitor
expect 0 promote
expect 0 notify
: >"$dir/hangs"
expect 1 monitor
rm "$dir/hangs"
echo "secondary joining synchronising" >"$dir/web.state"
expect 0 monitor
expect 0 stop
expect 7 monitor
: >"$dir/refuse"
expect 6 start
rm "$dir/refuse"
expect 3 migrate_to
OCF_RESKEY_name=../web expect 6 validate-all
OCF_RESKEY_config=$dir/none expect 5 validate-all
OCF_RESKEY_binary=$dir/none expect 5 validate-all
OCF_RESKEY_binary=$dir/none expect 7 monitor
echo "all return codes are right"
