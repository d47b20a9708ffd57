# shellcheck shell=bash disable=SC2034,SC2154
# Apache Kafka: one process that is broker and controller (KRaft). Maven brings its jars, as kafka/pom.xml lists them.

# name:partitions:cleanup.policy
kafka_topics=(
  campaign-events:4:delete ad-events:4:delete conversion-events:4:delete product-metrics:4:compact product-meta:4:compact
  compensation-events:4:delete late-events:4:delete dead-letter:4:delete adtide-progress:1:compact
)
kafka_signal=TERM
kafka_port=${ADTIDE_KAFKA_PORT:-19092}
kafka_controller_port=${ADTIDE_KAFKA_CONTROLLER_PORT:-19093}
kafka_files=$repo/scripts/kafka
kafka_port() { echo "$kafka_port $kafka_controller_port"; }
kafka_variable() { echo ADTIDE_TEST_KAFKA_BROKERS; }
kafka_url() { address kafka; }
kafka_jars() { echo "${XDG_CACHE_HOME:-$HOME/.cache}/adtide/kafka-$(kafka_pinned)"; }
kafka_pinned() { sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' "$kafka_files/pom.xml"; }
# The pom is kept with the jars: when it changes, the jars are fetched again.
kafka_version() { cmp -s "$kafka_files/pom.xml" "$(kafka_jars)/pom.xml" && kafka_pinned; }

kafka_prepare() {
  kafka_java >/dev/null || apt_install "$(kafka_java_package)"
  kafka_java >/dev/null || cannot_install "kafka: needs Java 17 or newer; set JAVA_HOME"
  kafka_version >/dev/null || kafka_download
}

# The first Java that is new enough; the one in the PATH may be an old one beside a newer.
kafka_java() {
  local java version
  for java in ${JAVA_HOME:+"$JAVA_HOME/bin/java"} "$(command -v java)" /usr/lib/jvm/*/bin/java; do
    [[ -x $java ]] || continue
    version=$("$java" -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p')
    [[ ${version:-0} -lt 17 ]] || { echo "$java"; return; }
  done
  return 1
}

kafka_java_package() {
  if apt-cache show openjdk-17-jre-headless >/dev/null 2>&1; then echo openjdk-17-jre-headless; else echo default-jre-headless; fi
}

# Into another folder first, so that an interrupted download is not taken for a whole one.
kafka_download() {
  local jars new log=$dir/log/maven
  jars=$(kafka_jars) new=$jars.new.$$
  command -v mvn >/dev/null || apt_install maven
  say "kafka: fetching $(kafka_pinned) with Maven, once"
  mkdir -p "$new"
  mvn -B -q -ntp --strict-checksums -f "$kafka_files/pom.xml" dependency:copy-dependencies -DoutputDirectory="$new" >"$log" 2>&1 ||
    { rm -rf "$new"; grep ERROR "$log" | head -n 2 >&2; cannot_install "kafka: Maven could not fetch it: see $log"; }
  cp "$kafka_files/pom.xml" "$new/pom.xml"
  rm -rf "$jars"
  mv "$new" "$jars"
}

# kafka_java_line LEVEL JVM-OPTION... CLASS ARGUMENT...: leaves the whole command in java_line.
kafka_java_line() {
  local level=$1; shift
  java_line=("$(kafka_java)" -cp "$(kafka_jars)/*" "-Dlog4j2.configurationFile=$kafka_files/log4j2.properties" "-Dadtide.level=$level" "$@")
}

# kafka_tool CLASS ARGUMENT...: lives for a second, so what compiles and collects less is faster.
kafka_tool() {
  local java_line
  kafka_java_line WARN -Xmx128m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 "$@"
  "${java_line[@]}"
}

kafka_start() {
  local config=$dir/kafka/server.properties java_line
  mkdir -p "$dir/kafka"
  kafka_config >"$config"
  # Formatting gives the folder a cluster id; once that is there it is left alone.
  [[ -e $dir/kafka/data/meta.properties ]] ||
    kafka_tool kafka.tools.StorageTool format --cluster-id "$(kafka_tool kafka.tools.StorageTool random-uuid)" \
      --config "$config" --ignore-formatted >"$dir/log/kafka.format" 2>&1 ||
    { tail -n 15 "$dir/log/kafka.format" >&2; fail "kafka: could not format $dir/kafka/data"; }
  kafka_java_line INFO -Xms128m -Xmx512m -XX:+UseG1GC -XX:+ExitOnOutOfMemoryError kafka.Kafka "$config"
  spawn kafka "${java_line[@]}"
}

# Retention is unlimited because Kafka counts it from the records' own times: a test whose events are of last year would
# see them deleted. Few partitions and small buffers for what Kafka keeps for itself: they make starting quick. After kill -9
# the broker is let in again when the session of the one before has run out: 3 s instead of 9. Members of consumer groups
# may ask for short sessions too.
kafka_config() {
  cat <<EOF
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$kafka_controller_port
listeners=PLAINTEXT://127.0.0.1:$kafka_port,CONTROLLER://127.0.0.1:$kafka_controller_port
advertised.listeners=PLAINTEXT://127.0.0.1:$kafka_port
controller.listener.names=CONTROLLER
log.dirs=$dir/kafka/data
auto.create.topics.enable=false
num.partitions=4
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.retention.ms=-1
log.segment.bytes=67108864
log.index.size.max.bytes=1048576
log.cleaner.dedupe.buffer.size=16777216
num.network.threads=2
num.io.threads=4
EOF
}

# A connection is not an answer yet, but enough for status: kafka_finish asks the broker itself.
kafka_answers() { listens "$(port_of kafka)"; }

kafka_topic() {
  kafka_tool org.apache.kafka.tools.TopicCommand --bootstrap-server "$(address kafka)" "$@"
}

kafka_finish() {
  local there topic name partitions policy log=$dir/log/kafka.topics
  local -a jobs=()
  there=$(kafka_topic --list 2>"$log") || { tail -n 5 "$log" >&2; fail "kafka: can't list its topics: see $log"; }
  for topic in "${kafka_topics[@]}"; do
    IFS=: read -r name partitions policy <<<"$topic"
    grep -qxF "$name" <<<"$there" || jobs+=("$name $partitions $policy")
  done
  [[ ${#jobs[@]} -gt 0 ]] || return 0
  kafka_create_topics "${jobs[@]}" >>"$log" 2>&1 || { tail -n 5 "$log" >&2; fail "kafka: can't create its topics: see $log"; }
}

# kafka_create_topics "NAME PARTITIONS POLICY"...: TopicCommand makes one topic a call, so as many calls as there are cores.
kafka_create_topics() {
  local topic name partitions policy pid running=0 result=0
  for topic in "$@"; do
    read -r name partitions policy <<<"$topic"
    [[ $running -lt $(nproc) ]] || { wait -n || result=1; running=$((running - 1)); }
    kafka_topic --create --if-not-exists --topic "$name" --partitions "$partitions" --replication-factor 1 \
      --config "cleanup.policy=$policy" &
    running=$((running + 1))
  done
  while [[ $running -gt 0 ]]; do wait -n || result=1; running=$((running - 1)); done
  return "$result"
}
