# shellcheck shell=bash disable=SC2034,SC2154
# PostgreSQL, from Debian's package, but as a process of its own: Debian's clusters are neither used nor made.

postgres_signal=INT # "fast": disconnects clients and shuts down cleanly
postgres_port() { echo "${ADTIDE_POSTGRES_PORT:-15432}"; }
postgres_variable() { echo ADTIDE_TEST_POSTGRES_URL; }
postgres_url() { echo "postgres://adtide:$password@$(address postgres)/adtide"; }
postgres_version() { "$(postgres_bin)/postgres" --version | sed 's/^[^0-9]*//; s/ .*//'; }

# The folder of the newest server: Debian keeps initdb and postgres out of the PATH.
postgres_bin() {
  local found
  found=$(compgen -G '/usr/lib/postgresql/*/bin/initdb' | sort -V | tail -n 1) || found=$(command -v initdb) || return 1
  dirname "$(realpath "$found")"
}

postgres_prepare() {
  postgres_bin >/dev/null || postgres_install
  [[ $(id -u) != 0 ]] || id -u postgres >/dev/null 2>&1 ||
    cannot_install "PostgreSQL does not run as root, and there is no user postgres to run it as"
}

# Debian's package makes a cluster "main" and starts it on 5432, unless this setting is there when it is configured.
postgres_install() {
  local setting=/etc/postgresql-common/createcluster.d/adtide.conf as_root=() result=0
  [[ $(id -u) == 0 ]] || as_root=(sudo -n)
  "${as_root[@]}" install -D -m 644 /dev/stdin "$setting" <<<"create_main_cluster = false" 2>/dev/null || true
  (apt_install postgresql) || result=$?
  "${as_root[@]}" rm -f "$setting" 2>/dev/null || true # what is installed later is none of our business
  [[ $result == 0 ]] || exit "$result"
}

# What stands before the commands of PostgreSQL, which refuses to run as root. setpriv becomes the command, so the pid is the server's;
# runuser would stay as its parent.
as_postgres() {
  if [[ $(id -u) == 0 ]]; then
    echo setpriv --reuid=postgres --regid=postgres --init-groups env HOME=/ USER=postgres
  else
    echo env
  fi
}

postgres_start() {
  local as bin data=$dir/postgres/data
  read -ra as <<<"$(as_postgres)"
  bin=$(postgres_bin)
  [[ -e $data ]] || postgres_init "$bin" "${as[@]}"
  postgres_clear "$data"
  # fsync stays on: what is measured against this server should be what a real one does.
  spawn postgres "${as[@]}" "$bin/postgres" -D "$data" -p "$(postgres_port)" -c listen_addresses=127.0.0.1 \
    -c unix_socket_directories= -c max_wal_size=512MB -c max_connections=200
}

# postgres_init BIN AS...: under another name until it is complete, so that an interrupted one is not taken for whole.
postgres_init() {
  local bin=$1 new=$dir/postgres/new log=$dir/log/postgres.init; shift
  rm -rf "$new"
  mkdir -p "$dir/postgres"
  [[ $(id -u) != 0 ]] || chown postgres: "$dir/postgres"
  (cd / && "$@" test -w "$dir/postgres") ||
    fail "the user postgres can't write to $dir/postgres; set ADTIDE_SERVICES_DIR to a folder that it can reach"
  (
    cd /
    "$@" "$bin/initdb" -D "$new" -U postgres --auth-host=scram-sha-256 --auth-local=reject --encoding=UTF8 --locale=C --no-sync
    # Single-user mode: no server, no port, and the user and the database are there before the first client.
    "$@" "$bin/postgres" --single -D "$new" postgres <<EOF
ALTER ROLE postgres PASSWORD '$password'
CREATE ROLE adtide LOGIN CREATEDB PASSWORD '$password'
CREATE DATABASE adtide OWNER adtide
EOF
  ) >"$log" 2>&1 || { tail -n 15 "$log" >&2; fail "postgres: could not make a database in $new: see $log"; }
  mv "$new" "$dir/postgres/data"
}

# After a kill: the children of the server live on for a moment and hold its shared memory, so a new one would refuse to
# start. Once nobody is at work in the folder, its lock is of no meaning, yet PostgreSQL would go by it while the pid in it
# is there, be it only as a dead process that nobody reaped or as another program's.
postgres_clear() {
  local data=$1 deadline=$((SECONDS + 10)) cwd
  while [[ $SECONDS -lt $deadline ]]; do
    for cwd in /proc/[0-9]*/cwd; do [[ ! $cwd -ef $data ]] || { sleep 0.1; continue 2; }; done
    rm -f "$data/postmaster.pid"
    return
  done
  fail "postgres: another server is at work in $data"
}

postgres_answers() {
  [[ $(PGPASSWORD=$password PGCONNECT_TIMEOUT=3 psql -XAtq -h 127.0.0.1 -p "$(port_of postgres)" -U adtide -d adtide \
    -c 'SELECT 1' 2>/dev/null) == 1 ]]
}
postgres_finish() { :; }
