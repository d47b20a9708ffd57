# shellcheck shell=bash disable=SC2034,SC2154
# Redis, from Debian's package redis-tools. It holds the whole server (redis-server in the package of that name is only
# a link to its redis-check-rdb, beside the system service that we do not want), and no service.

redis_signal=TERM
redis_port() { echo "${ADTIDE_REDIS_PORT:-16379}"; }
redis_variable() { echo ADTIDE_TEST_REDIS_URL; }
# The user is named because redis-cli takes an empty one for a name.
redis_url() { echo "redis://default:$password@$(address redis)/0"; }
redis_version() { (exec -a redis-server "$(redis_program)" --version) | sed 's/.* v=\([^ ]*\).*/\1/'; }

redis_program() { command -v redis-server || command -v redis-check-rdb; }

redis_prepare() {
  if ! redis_program >/dev/null || ! command -v redis-cli >/dev/null; then apt_install redis-tools; fi
  [[ $(redis_version) == [0-9]* ]] || cannot_install "redis: $(redis_program) is not the server; install redis-server"
}

# appendfsync always: what Redis has acknowledged is on disk, so a test that loses it after kill -9 has found a fault
# of its own. One script an epoch makes few syncs.
redis_start() {
  mkdir -p "$dir/redis"
  cat >"$dir/redis/redis.conf" <<EOF
bind 127.0.0.1
port $(redis_port)
requirepass $password
dir "$dir/redis"
appendonly yes
appendfsync always
save ""
databases 64
maxmemory 512mb
maxmemory-policy noeviction
EOF
  # The name by which it is called decides whether that program is the server.
  ln -sf "$(redis_program)" "$dir/redis/redis-server"
  spawn redis "$dir/redis/redis-server" "$dir/redis/redis.conf"
}

redis_answers() {
  [[ $(REDISCLI_AUTH=$password timeout 3 redis-cli -h 127.0.0.1 -p "$(port_of redis)" ping 2>/dev/null) == PONG ]]
}
redis_finish() { :; }
