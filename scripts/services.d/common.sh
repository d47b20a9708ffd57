# shellcheck shell=bash disable=SC2154 # dir, timeout and the like are set by scripts/services
# What the services share: messages, packages, processes and their records, the env file.

say() { printf '%s\n' "$*"; }
complain() { printf 'scripts/services: %s\n' "$*" >&2; }
fail() { complain "$*"; exit 1; }
cannot_install() { complain "$*"; exit 3; }

# One command at a time on a folder: tests may all call up at once. Services must not inherit the lock (9>&- in spawn).
lock() {
  mkdir -p "$dir/run" "$dir/log"
  exec 9>"$dir/lock"
  flock -w 600 9 || fail "another scripts/services is at work on $dir"
}

# ---- packages ----

# apt_install PACKAGE...: from Debian. The packages are chosen so that none brings a system service to life: see the callers.
apt_install() {
  local as_root=()
  command -v apt-get >/dev/null || cannot_install "needs the package $* installed (there is no apt-get here to do it)"
  if [[ $(id -u) != 0 ]]; then
    as_root=(sudo -n)
    sudo -n true 2>/dev/null || cannot_install "needs the Debian package $*: apt-get install $* (neither root nor sudo here)"
  fi
  say "installing $* from Debian"
  # Without needrestart, which would restart services of the system that have nothing to do with this.
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 apt-get -qq -o DPkg::Lock::Timeout=120)
  mkdir -p "$dir/log"
  # The lists are only fetched if the ones there are missing or too old to be of use.
  "${apt[@]}" install -y --no-install-recommends "$@" >"$dir/log/apt" 2>&1 ||
    { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "$@"; } >"$dir/log/apt" 2>&1 ||
    { tail -n 5 "$dir/log/apt" >&2; cannot_install "could not install the Debian package $*: see $dir/log/apt"; }
}

# ---- processes ----
# run/NAME holds "pid start port": a pid alone may be another program's by now, a pid with its start time may not.

recorded() {
  local pid start port
  [[ -r $dir/run/$1 ]] && read -r pid start port <"$dir/run/$1" || return 1
  case $2 in pid) echo "$pid" ;; start) echo "$start" ;; port) echo "$port" ;; esac
}

# started PID: the start time of a process, in ticks since boot. Nothing for one that ended, even if nobody reaped it.
started() {
  local stat fields
  { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 1
  read -ra fields <<<"${stat##*) }" # the program's name comes before, and may hold blanks
  [[ ${fields[0]} != [ZX] ]] && echo "${fields[19]}"
}

alive() {
  local pid
  pid=$(recorded "$1" pid) && [[ $(started "$pid") == "$(recorded "$1" start)" ]]
}

send() { kill -s "$2" "$(recorded "$1" pid)"; }

wait_gone() {
  local deadline=$((SECONDS + $2))
  while alive "$1"; do [[ $SECONDS -lt $deadline ]] || return 1; sleep 0.1; done
}

# spawn NAME COMMAND...: in the background, in a session of its own, holding nothing of the caller's.
spawn() {
  local name=$1 log=$dir/log/$1.log; shift
  [[ ! -e $log ]] || mv "$log" "$log.1"
  (cd / && exec setsid "$@" </dev/null >"$log" 2>&1 9>&-) &
  echo "$! $(started $!) $(main_port "$name")" >"$dir/run/$name"
}

wait_until_answers() {
  local name=$1 deadline=$((SECONDS + timeout)) why
  until "${name}_answers"; do
    if ! alive "$name"; then why="ended while starting"
    elif [[ $SECONDS -ge $deadline ]]; then why="does not answer after $timeout s"
    else sleep 0.1; continue; fi
    complain "$name $why; the end of $dir/log/$name.log:"
    tail -n 15 "$dir/log/$name.log" | sed 's/^/    /' >&2
    exit 1
  done
}

# ---- addresses ----

# The first of a service's ports is the one that clients use.
main_port() { local port; read -r port _ <<<"$("${1}_port")"; echo "$port"; }
listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
port_free() { ! listens "$1"; }

# The port that a running service was started with, whatever the environment says by now.
port_of() { recorded "$1" port || main_port "$1"; }
address() { echo "127.0.0.1:$(port_of "$1")"; }

port_variable() {
  case $1 in
    kafka) [[ $2 == "$kafka_port" ]] && echo ADTIDE_KAFKA_PORT || echo ADTIDE_KAFKA_CONTROLLER_PORT ;;
    *) echo "ADTIDE_${1^^}_PORT" ;;
  esac
}

# Only what runs is in the file, so a test without its variable knows that it has to be skipped.
write_env() {
  local name
  {
    echo "# Written by scripts/services: the addresses of what is running."
    for name in "${all[@]}"; do ! alive "$name" || echo "export $("${name}_variable")='$("${name}_url")'"; done
  } >"$dir/env.new"
  mv "$dir/env.new" "$dir/env"
}
