# The DNS corpus, asked with dig by something that stands for a guest. $1 is what the name server writes its questions to.
failed=0
passed=0
# expect WHAT EXPECTED ACTUAL
expect() {
    if [ "$2" = "$3" ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'dig: %s\n  expected: %s\n  got:      %s\n' "$1" "$2" "$3"
    fi
}
short() { dig +short +timeout=5 +tries=1 "$@" | sort | paste -sd' ' -; }
# status ARGUMENTS: the response code and the flags that matter
status() { dig +timeout=5 +tries=1 "$@" | sed -n 's/.*status: \([A-Z]*\),.*/\1/p'; }
asked() { grep -ci "^asked $1 $2\$" "$log"; }
log=$1

for server in @10.118.0.1 @fd76:6d00::1; do
    for via in +notcp +tcp; do
        expect "A $server $via" 93.184.215.14 "$(short $server $via a.corpus.test A)"
        expect "AAAA $server $via" 2606:4700::1111 "$(short $server $via a.corpus.test AAAA)"
    done
done
expect "each question was asked outside once" "1 1" "$(asked a.corpus.test. A) $(asked a.corpus.test. AAAA)"
expect MX "10 a.corpus.test." "$(short mx.corpus.test MX)"
expect TXT "\"v=spf1 -all\" \"$(printf 'x%.0s' $(seq 255))\"" "$(short txt.corpus.test TXT)"
expect SRV "1 2 5060 a.corpus.test." "$(short _sip._tcp.corpus.test SRV)"
expect NS "a.corpus.test." "$(short ns.corpus.test NS)"
expect CAA '0 issue "ca.test."' "$(short caa.corpus.test CAA)"
expect PTR "a.corpus.test." "$(short -x 93.184.215.14)"
expect CNAME "second.corpus.test." "$(short alias.corpus.test CNAME)"
expect "a chain of aliases" "93.184.215.14 a.corpus.test. second.corpus.test." "$(short alias.corpus.test A)"
expect "a loop of aliases ends" NOERROR "$(status loop.corpus.test A)"
expect "a name that is not there" NXDOMAIN "$(status gone.corpus.test A)"
expect "a type that is not there" NOERROR "$(status a.corpus.test MX)"
negative=$(dig +noall +authority gone.corpus.test A | awk '{ print ($2 <= 60 && $4 == "SOA") }')
expect "a negative answer says how long it counts" 1 "$negative"
expect "and is asked outside once" 1 "$(asked gone.corpus.test. A)"
expect "ANY says nothing" '"RFC8482" ""' "$(short a.corpus.test ANY)"

expect "rebinding: A" 93.184.215.14 "$(short rebind.corpus.test A)"
expect "rebinding: AAAA in every encoding" "" "$(short rebind6.corpus.test AAAA)"
expect "rebinding: alias" "router.lan." "$(short inside.corpus.test A)"
expect "rebinding: PTR" NXDOMAIN "$(status -x 10.0.0.1)"
expect "and it was not asked outside" 0 "$(asked 1.0.0.10.in-addr.arpa. PTR)"
service=$(dig +short service.corpus.test HTTPS)
expect "HTTPS keeps its allowed hints and keys" \
    "1 . alpn=\"h3,h2\" port=443 ipv4hint=93.184.215.14 ech=AAj+/wAEAQIDBA== ipv6hint=2606:4700::1111" "$service"
expect "HTTPS of an intercepted name has port and known protocols" \
    '1 . alpn="h2" port=443' "$(dig +short api.corpus.test HTTPS)"

flags() { dig +timeout=5 +tries=1 +ignore "$@" | grep -c '^;; flags:.* tc[ ;]'; }
expect "a large answer is cut for who takes 512 bytes" 1 "$(flags +noedns many.corpus.test A)"
expect "and for who takes 540" 1 "$(flags +bufsize=540 many.corpus.test A)"
expect "but not for who takes 1232" 0 "$(flags +bufsize=1232 many.corpus.test A)"
expect "dig then asks over TCP" 32 "$(short +noedns many.corpus.test A | wc -w)"
expect "no datagram is longer than asked" yes \
    "$(dig +ignore +bufsize=540 many.corpus.test A | awk '/MSG SIZE/ { print ($5 <= 540) ? "yes" : $5 }')"
expect "EDNS of another version" BADVERS "$(status +edns=1 +noednsneg a.corpus.test A)"
expect "another class" REFUSED "$(status a.corpus.test A -c CH)"
expect "a type that asks for no records" NOTIMP "$(status +noedns corpus.test TYPE200)"
expect "short names are completed" "93.184.215.14 a.corpus.test." "$(short +search second A)"
expect "localhost" 127.0.0.1 "$(short localhost A)"
expect "what browsers ask before they look elsewhere" NXDOMAIN "$(status use-application-dns.net A)"
expect "another server is not reachable" 0 "$(dig +short +timeout=1 +tries=1 @8.8.8.8 a.corpus.test A 2>/dev/null | grep -c '^93')"

echo "dig: $passed passed, $failed failed"
[ "$failed" = 0 ]
