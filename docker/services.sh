#!/usr/bin/env bash
# Starts a real Apache Kafka, the ClickHouse engine and an S3 server for tests, on a machine without a Docker engine.
#
#   docker/services.sh up            all, waits until they answer, prints the variables that the tests read
#   docker/services.sh down          all
#   docker/services.sh env           the variables alone
#   docker/services.sh status        what runs
#   docker/services.sh clean         down, and their data away (the downloaded packages stay)
#   docker/services.sh {kafka,clickhouse,s3}-{start,stop,kill}    one of them; `kill` is kill -9
#
# Kafka is its published Java packages, one KRaft process (broker and controller), data kept between starts.
# ClickHouse is the engine in Python's `chdb` package behind docker/clickhouse_front.py, which speaks ClickHouse's HTTP
# interface. It does not cover users, roles and quotas, Keeper and replication, the native protocol, TLS, progress headers
# and streamed responses, server logs (system.query_log), asynchronous inserts' buffer; the list is in that file's header.
# A cluster of several brokers, TLS and SASL are not covered either.
# S3 is Python's `moto`, which keeps objects in memory and knows conditional puts. It covers no signatures, no throttling
# and no other cloud: Google's and Azure's stores are not tried.
#
# State: ${VEDETTE_SERVICES_HOME:-~/.cache/vedette-services}. Ports: VEDETTE_KAFKA_PORT (19092; the controller takes the
# next one), VEDETTE_CLICKHOUSE_PORT (18123), VEDETTE_S3_PORT (19555). Accounts of ClickHouse: `default` without a password, `vedette` with
# `vedette-test`, and read-only `reader` with `reader-test`.
# Needs Java 17 and Maven (installed by apt if missing and root) and Python 3.10 or later with venv.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
home=${VEDETTE_SERVICES_HOME:-$HOME/.cache/vedette-services}
kafka_port=${VEDETTE_KAFKA_PORT:-19092}
clickhouse_port=${VEDETTE_CLICKHOUSE_PORT:-18123}
s3_port=${VEDETTE_S3_PORT:-19555}
python=$home/venv/bin/python

say() { echo "services: $*" >&2; }
fail() { say "$*"; exit 1; }

# A package set is fetched again when the file that names it changes.
current() { cmp -s "$1" "$2"; }

apt_install() {
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || fail "missing: $*; install it"
  say "installing $*"
  apt-get update -qq >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

install_kafka() {
  current "$here/services/pom.xml" "$home/kafka/lib/pom.xml" && return
  command -v java >/dev/null || apt_install openjdk-17-jre-headless
  command -v mvn >/dev/null || apt_install maven
  say "fetching Kafka's packages"
  rm -rf "$home/kafka/lib"
  mvn -q -B -f "$here/services/pom.xml" dependency:copy-dependencies -DoutputDirectory="$home/kafka/lib" >&2
  cp "$here/services/pom.xml" "$home/kafka/lib/pom.xml"
}

# What is written in Python: ClickHouse's front, the S3 server, and another reader of Delta tables.
install_python() {
  current "$here/services/requirements.txt" "$home/venv/requirements.txt" && return
  if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then apt_install python3-venv; fi
  say "fetching ClickHouse's engine and the S3 server"
  python3 -m venv --clear "$home/venv"
  "$home/venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/services/requirements.txt" >&2
  cp "$here/services/requirements.txt" "$home/venv/requirements.txt"
}

# The process of that name, if it is alive and still ours (a pid file outlives a reboot).
pid_of() {
  local pid
  pid=$(cat "$home/$1.pid" 2>/dev/null) && [ -n "$pid" ] && [ -d "/proc/$pid" ] &&
    tr '\0' ' ' <"/proc/$pid/cmdline" | grep -qF "$home" && echo "$pid"
}

kafka_answers() { # an ApiVersions request, the first thing any client asks
  python3 - "$kafka_port" 2>/dev/null <<'PY'
import socket, struct, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 2) as s:
    s.settimeout(5)
    s.sendall(struct.pack(">ihhih", 10, 18, 0, 7, -1))
    sys.exit(0 if struct.unpack(">ii", s.recv(8, socket.MSG_WAITALL))[1] == 7 else 1)
PY
}

clickhouse_answers() {
  python3 - "$clickhouse_port" 2>/dev/null <<'PY'
import sys, urllib.request
body = urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/?query=SELECT%201", timeout=5).read()
sys.exit(0 if body == b"1\n" else 1)
PY
}

s3_answers() {
  python3 - "$s3_port" 2>/dev/null <<'PY'
import sys, urllib.request
urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/moto-api/", timeout=5)
PY
}

wait_for() { # name seconds
  local until=$((SECONDS + $2))
  until "$1_answers"; do
    if [ -z "$(pid_of "$1")" ]; then tail -20 "$home/$1.log" >&2; fail "$1 has ended; its log is $home/$1.log"; fi
    [ $SECONDS -lt $until ] || fail "$1 does not answer after $2 s; its log is $home/$1.log"
    sleep 0.3
  done
}

kafka_config() {
  cat <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$((kafka_port + 1))
listeners=PLAINTEXT://127.0.0.1:$kafka_port,CONTROLLER://127.0.0.1:$((kafka_port + 1))
advertised.listeners=PLAINTEXT://127.0.0.1:$kafka_port
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$home/kafka/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
PROPERTIES
}

kafka_start() {
  install_kafka
  if [ -z "$(pid_of kafka)" ]; then
    kafka_config >"$home/kafka/server.properties"
    local classpath="$home/kafka/lib/*"
    if [ ! -f "$home/kafka/data/meta.properties" ]; then
      java -cp "$classpath" kafka.tools.StorageTool format -t "$(java -cp "$classpath" kafka.tools.StorageTool random-uuid 2>/dev/null)" \
        -c "$home/kafka/server.properties" >"$home/kafka.log" 2>&1 || { cat "$home/kafka.log" >&2; fail "kafka's storage can't be formatted"; }
    fi
    nohup setsid java -Xmx512m -cp "$classpath" kafka.Kafka "$home/kafka/server.properties" >"$home/kafka.log" 2>&1 </dev/null 9>&- &
    echo $! >"$home/kafka.pid"
  fi
  wait_for kafka 90
}

clickhouse_start() {
  install_python
  if [ -z "$(pid_of clickhouse)" ]; then
    mkdir -p "$home/clickhouse"
    nohup setsid "$python" "$here/clickhouse_front.py" --path "$home/clickhouse/data" --port "$clickhouse_port" \
      --account default: --account vedette:vedette-test --account reader:reader-test:readonly \
      >"$home/clickhouse.log" 2>&1 </dev/null 9>&- &
    echo $! >"$home/clickhouse.pid"
  fi
  wait_for clickhouse 60
}

s3_start() {
  install_python
  if [ -z "$(pid_of s3)" ]; then
    nohup setsid "$home/venv/bin/moto_server" -H 127.0.0.1 -p "$s3_port" >"$home/s3.log" 2>&1 </dev/null 9>&- &
    echo $! >"$home/s3.pid"
  fi
  wait_for s3 60
}

stop() { # name [signal]
  local pid waited=0
  pid=$(pid_of "$1") || { rm -f "$home/$1.pid"; return 0; }
  kill "${2:--TERM}" "$pid"
  while [ -n "$(pid_of "$1")" ]; do
    sleep 0.2
    waited=$((waited + 1))
    if [ $waited -eq 100 ]; then say "$1 does not stop; killing it"; kill -9 "$pid"; fi
  done
  rm -f "$home/$1.pid"
}

environment() {
  echo "VEDETTE_TEST_KAFKA=127.0.0.1:$kafka_port"
  echo "VEDETTE_TEST_CLICKHOUSE=http://127.0.0.1:$clickhouse_port"
  echo "VEDETTE_TEST_S3=http://127.0.0.1:$s3_port"
  echo "VEDETTE_TEST_PYTHON=$python"
}

mkdir -p "$home"
exec 9>"$home/lock"
flock -w 600 9 || fail "another services.sh holds $home/lock"
case "${1:-}" in
  up) kafka_start; clickhouse_start; s3_start; environment ;;
  down) stop kafka; stop clickhouse; stop s3 ;;
  clean) stop kafka; stop clickhouse; stop s3; rm -rf "$home/kafka/data" "$home/clickhouse" ;;
  env) environment ;;
  status) for name in kafka clickhouse s3; do echo "$name $(pid_of $name || echo stopped)"; done ;;
  kafka-start | clickhouse-start | s3-start) "${1%-start}_start" ;;
  kafka-stop | clickhouse-stop | s3-stop) stop "${1%-stop}" ;;
  kafka-kill | clickhouse-kill | s3-kill) stop "${1%-kill}" -9 ;;
  *) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 2 ;;
esac
