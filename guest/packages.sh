# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=bash
#
# guest/packages.sh - what guest/build and guest/build-pg have in common; to be sourced
#
# Debian packages fetched into $cache and unpacked, libraries and kernel modules picked out of them. The caller sets cache,
# work (a directory for temporary files) and drivers, and has say() and die().
#
# shellcheck disable=SC2154	# those three

# name=version of each package named, as apt would fetch it now
versions()
{
	apt-cache show --no-all-versions "$@" 2>/dev/null | sed -n 's/^Package: //p; s/^Version: //p' | paste -d= - -
}

# The first alternative of each dependency of the packages named
depends()
{
	apt-cache show --no-all-versions "$@" | sed -n 's/^\(Pre-\)\?Depends: //p' | tr ',' '\n' |
		sed 's/^ *//; s/[ :|(].*//' | sort -u
}

# The packages named, and all libraries that they need, directly or not
library_closure()
{
	local new=("$@") all=("$@") p

	while [ ${#new[@]} -gt 0 ]; do
		mapfile -t found < <(depends "${new[@]}" | grep '^lib')
		new=()
		for p in "${found[@]}"; do
			[[ " ${all[*]} " == *" $p "* ]] || new+=("$p")
		done
		all+=("${new[@]}")
	done
	printf '%s\n' "${all[@]}"
}

# The cached file of a package (name=version)
deb_of()
{
	echo "$cache/${1%%=*}_${1#*=}.deb"
}

# Fetches the packages named (name=version) into the cache, those that are missing only.
fetch()
{
	local p missing=()

	for p in "$@"; do
		[ -s "$(deb_of "$p")" ] || missing+=("$p")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	say "fetching ${#missing[@]} packages"
	rm -rf "$cache/new"
	mkdir -p "$cache/new"
	(cd "$cache/new" && apt-get download -q -q -o APT::Sandbox::User= "${missing[@]}") || return 1
	for p in "${missing[@]}"; do
		rm -f "$cache/${p%%=*}"_*.deb
		mv "$cache/new/${p%%=*}"_*.deb "$(deb_of "$p")" || return 1
	done
	rmdir "$cache/new"
}

# Unpacks what matches the patterns from package file $1 into directory $2.
unpack()
{
	local deb=$1 dir=$2

	shift 2
	mkdir -p "$dir"
	dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$dir" --wildcards "$@"
}

# The field $2 (depends, alias) of kernel module file $1
modinfo_field()
{
	objcopy -O binary --only-section=.modinfo "$1" "$work/modinfo"
	tr '\0' '\n' < "$work/modinfo" | sed -n "s/^$2=//p"
}

# Puts into the array order the module $1 behind all that it needs.
module_order()
{
	local name=${1//-/_} file=${module_file[${1//-/_}]-} dep

	[ -n "$file" ] || return 0
	[ -z "${ordered[$name]-}" ] || return 0
	for dep in $(modinfo_field "$file" depends | tr ',' ' '); do
		module_order "$dep"
	done
	ordered[$name]=1
	order+=("$file")
}

# Copies the drivers from module tree $1 into the root $2 and writes the table that init reads.
add_modules()
{
	local tree=$1 root=$2 driver file order list alias
	local -A module_file=() ordered

	mkdir -p "$root/lib/modules"
	while read -r file; do
		driver=${file##*/}
		driver=${driver%.ko}
		module_file[${driver//-/_}]=$file
	done < <(find "$tree" -name '*.ko')
	for driver in "${drivers[@]}"; do
		order=()
		ordered=()
		module_order "$driver"
		[ ${#order[@]} -gt 0 ] || continue
		cp -u "${order[@]}" "$root/lib/modules/"
		list=${order[*]##*/}
		while read -r alias; do
			echo "$alias $list"
		done < <(modinfo_field "${order[-1]}" alias)
	done > "$root/lib/modules/table"
	grep -q virtio_net "$root/lib/modules/table" || die "the kernel package has no virtio_net driver"
}

# Copies into the root $2 each library that file $1 needs, and what those need, from the unpacked packages in $3.
add_libraries()
{
	local lib from

	while read -r lib; do
		[ ! -e "$2/lib/$lib" ] || continue
		from=$(find "$3/lib" "$3/lib64" "$3/usr/lib" -name "$lib" 2>/dev/null | sort | sed 1q)
		[ -n "$from" ] || die "no package brings $lib, which ${1##*/} needs"
		cp -L "$from" "$2/lib/$lib"
		add_libraries "$2/lib/$lib" "$2" "$3"
	done < <(readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
}
