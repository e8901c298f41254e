# The lab's network: `source`d by scripts/lab.sh, which sets LAB.
#
# A namespace `switch` holds one bridge and no route; each other namespace hangs on it by a veth pair, eth0 on its side and a port
# of its name on the switch's. What a node sends is shaped at eth0, what it receives at the port. Names of namespaces
# carry a hash of the lab's directory, so `down` finds them without any state.
# shellcheck shell=bash

lab_prefix() { echo "banyan-lab-$(sha256sum <<<"$LAB" | cut -c1-8)-"; }
namespace_of() { echo "$(lab_prefix)$1"; }
namespace_file() { echo "/run/netns/$(lab_prefix)$1"; }

address_of() {
  case $1 in
    registry) echo 10.77.0.2 ;;
    proxy) echo 10.77.0.3 ;;
    manager) echo 10.77.0.4 ;;
    n*) echo "10.77.1.${1#n}" ;;
  esac
}

# The MAC address follows from the IP address, so neighbours can be told to each other: no ARP, whose failure would
# make a silent link an error after some seconds.
mac_of() { local a; IFS=. read -ra a <<<"$(address_of "$1")"; printf '02:00:%02x:%02x:%02x:%02x' "${a[@]}"; }

link_names() { server_names; node_names; }

network_up() {
  local name other switch
  switch=$(namespace_of switch)
  for name in switch $(link_names); do
    ip netns add "$(namespace_of "$name")"
  done
  {
    echo "link add name br0 type bridge"
    echo "link set dev br0 up"
    for name in $(link_names); do
      echo "link add name $name type veth peer name eth0 address $(mac_of "$name") netns $(namespace_of "$name")"
      echo "link set dev $name master br0 up"
    done
  } | ip -n "$switch" -batch -
  for name in $(link_names); do
    {
      echo "address add $(address_of "$name")/16 dev eth0"
      echo "link set dev lo up"
      echo "link set dev eth0 up"
      for other in $(link_names); do
        [[ $other == "$name" ]] || echo "neighbour replace $(address_of "$other") lladdr $(mac_of "$other") nud permanent dev eth0"
      done
    } | ip -n "$(namespace_of "$name")" -batch -
    use_congestion_control "$name"
  done
}

# Debian's default, so that the lab's nodes send as users' nodes do whatever the host prefers. By the route, as a host may keep namespaces from
# choosing (net.ipv4.tcp_allowed_congestion_control). A kernel without it keeps its own.
use_congestion_control() {
  ip -n "$(namespace_of "$1")" route change 10.77.0.0/16 dev eth0 proto kernel scope link src "$(address_of "$1")" \
    congctl "${LAB_CONGESTION:-cubic}" || echo "lab.sh: $1 keeps the host's congestion control" >&2
}

# The lab's namespaces, their links and addresses. One in which a process lives on goes with that process.
network_down() {
  local file name pids
  for file in "/run/netns/$(lab_prefix)"*; do
    name=${file#/run/netns/}
    pids=$(ip netns pids "$name" 2>/dev/null | tr '\n' ' ')
    [[ -z $pids ]] || echo "lab.sh: still in namespace $name: process $pids" >&2
    ip netns delete "$name" || true
  done
}

# shape NAME RATE [up|down|both]
shape() {
  local name=$1 rate=$2 way=${3:-both}
  [[ $way == down ]] || shape_device "$(namespace_of "$name")" eth0 "$rate"
  [[ $way == up ]] || shape_device "$(namespace_of switch)" "$name" "$rate"
}
shape_device() {
  if [[ $3 == none ]]; then
    tc -n "$1" qdisc delete dev "$2" root 2>/dev/null || true
  else
    tc -n "$1" qdisc replace dev "$2" root tbf rate "$3" burst 256kb latency 50ms
  fi
}
shape_all() {
  local name
  shape proxy "$LAB_PROXY_RATE"
  for name in $(node_names); do shape "$name" "$LAB_RATE"; done
}

# A port that does not forward: nothing is refused, no carrier is lost, packets just do not arrive.
set_cut() {
  daemon_dir "$1" >/dev/null
  bridge -n "$(namespace_of switch)" link set dev "$1" state "$2"
}
is_cut() { bridge -n "$(namespace_of switch)" -j link show dev "$1" | jq -e '.[0].state == "disabled"' >/dev/null; }

# {"proxy": {"sent": bytes, "received": bytes}, …} of each link since it was made, as the switch's ports count.
counters() {
  ip -n "$(namespace_of switch)" -s -j link show type veth |
    jq -c '[.[] | {key: .ifname, value: {sent: .stats64.rx.bytes, received: .stats64.tx.bytes}}] | from_entries'
}
