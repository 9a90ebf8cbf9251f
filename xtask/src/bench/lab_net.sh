# In the emulated host: the product and the bare engine with passt in turn, so that whatever drifts drifts for both.
# The servers' address is the host's own in both cases, on a card that leads nowhere; passt wants a route.
set -eu
sudo modprobe dummy
sudo ip link add lab0 type dummy
sudo ip address add "$ADDRESS/24" dev lab0
sudo ip link set lab0 up
sudo ip route add default via "$ROUTER"
cp -r /files/bench/store "$HOME/data"; export XDG_DATA_HOME="$HOME/data"
mkdir "$HOME/project" "$HOME/share"; cd "$HOME/project"
cp /files/bench/net_load /files/bench/loads /files/bench/card "$HOME/share"
kernel=/usr/local/lib/agent-vm/libkrunfw.so
image=$(cat /files/bench/image)
/files/bench/net_load serve "$PORT" &
# The second time counts.
for round in 0 1; do
    /files/bench/passt --foreground --stderr --one-off --ipv4-only --socket "$HOME/passt.$round" --mtu "$MTU" \
        --address "$GUEST" --netmask 24 --gateway "$GATEWAY" --tcp-ports none --udp-ports none 2>"$HOME/passt.log" &
    passt=$!
    while [ ! -S "$HOME/passt.$round" ]; do
        kill -0 $passt || { cat "$HOME/passt.log" >&2; exit 1; }
        sleep 0.01
    done
    /files/bench/bare_net "$kernel" /files/bench/bare_load "$MEMORY" "$HOME/share" "$HOME/passt.$round" |
        tee /out/bare >&2
    wait $passt || true
    agent-vm run --image "$image" --memory "${MEMORY}MiB" --cpus 1 --mount "$HOME/share:/load:ro" \
        --allow-egress "$ADDRESS" -- \
        sh -c 'while read -r load; do /load/net_load $load || exit 1; done </load/loads' |
        tee /out/ours >&2
done
