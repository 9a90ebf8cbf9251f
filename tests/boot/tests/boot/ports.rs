//! D4: published ports reach real servers of the guest, mirrored ones appear in time and go, and what cannot be published
//! is told before anything is booted.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use agent_vm_boot_tests::{HELPERS_VARIABLE, Machine, scaled};
use anyhow::{Context as _, Result, bail, ensure};

/// The time D4 gives a mirrored port.
const IN_TIME: Duration = Duration::from_millis(500);

/// Servers at all addresses (TCP) and at loopback only (UDP); later one at loopback only (TCP), which ends again. Then
/// what the forwarder's thread cost, in nanoseconds of processor time, and how long the guest runs.
const SERVERS: &str = r#"
mkdir /tmp/www && echo page > /tmp/www/page
httpd -p 8001 -h /tmp/www
/udp_echo 5300 &
until [ -e open ]; do sleep 0.05; done
httpd -f -p 127.0.0.1:8002 -h /tmp/www & server=$!
until netstat -tln | grep -q 127.0.0.1:8002; do sleep 0.01; done
echo opened
until [ -e close ]; do sleep 0.05; done
kill $server; wait $server
echo closed
until [ -e end ]; do sleep 0.05; done
for task in /proc/1/task/*; do
  if [ "$(cat $task/comm)" = forward ]; then echo "forwarder $(cat $task/schedstat) uptime $(cat /proc/uptime)"; fi
done
"#;

#[test]
fn publishes_tcp_and_udp_and_mirrors_a_loopback_listener_in_time_and_only_while_it_listens()
-> Result<()> {
    let machine = Machine::new()?;
    let helpers = std::env::var(HELPERS_VARIABLE).context(HELPERS_VARIABLE)?;
    let probe = format!("{helpers}/udp_echo:/udp_echo:ro");
    let (tcp, udp) = (free_port()?, free_port()?);
    let (publish_tcp, publish_udp) = (format!("{tcp}:8001"), format!("{udp}:5300/udp"));
    let options = [
        "--mount",
        &probe,
        "--publish",
        &publish_tcp,
        "--publish",
        &publish_udp,
        "--auto-publish",
    ];
    let mut running = machine.script(&options, SERVERS).start()?;
    let mut lines = BufReader::new(running.stdout()?).lines();
    let mut said = || {
        lines
            .next()
            .context("the guest said nothing more")?
            .map_err(anyhow::Error::from)
    };
    let said_bound = said()?;
    ensure!(said_bound == "bound", "{said_bound}");

    ensure!(
        page(tcp)?.ends_with("page\n"),
        "no page at the published port"
    );
    let client = UdpSocket::bind("127.0.0.1:0")?;
    client.set_read_timeout(Some(scaled(Duration::from_secs(2))))?;
    client.connect(("127.0.0.1", udp))?;
    for size in [0, 5, 9000] {
        let sent = vec![7; size];
        client.send(&sent)?;
        let mut buffer = vec![0; 65_536];
        let count = client.recv(&mut buffer)?;
        ensure!(
            buffer[..count] == sent,
            "datagram of {size} bytes came back changed"
        );
    }

    let mirrored = SocketAddr::from(([127, 0, 0, 1], 8002));
    ensure!(
        TcpStream::connect(mirrored).is_err(),
        "mirrored before it listens"
    );
    machine.write(&machine.project().join("open"), "", 0o644)?;
    ensure!(said()? == "opened", "the second server did not start");
    let begun = Instant::now();
    let open = until(begun, || TcpStream::connect(mirrored).is_ok())?;
    ensure!(
        page(8002)?.ends_with("page\n"),
        "no page at the mirrored port"
    );
    machine.write(&machine.project().join("close"), "", 0o644)?;
    ensure!(said()? == "closed", "the second server did not end");
    let begun = Instant::now();
    let gone = until(begun, || TcpStream::connect(mirrored).is_err())?;

    machine.write(&machine.project().join("end"), "", 0o644)?;
    let cost = said()?;
    let finished = running.finish()?.expect_code(0)?;
    println!("mirrored after {open:?}, gone after {gone:?}; {cost}");
    ensure!(
        finished
            .stderr
            .contains(&format!("published: 127.0.0.1:{tcp} is port 8001/tcp"))
            && finished
                .stderr
                .contains("published: 127.0.0.1:8002 is port 8002/tcp"),
        "{}",
        finished.stderr
    );
    Ok(())
}

#[test]
fn tells_a_port_in_use_with_its_flag_and_what_to_do_before_anything_boots() -> Result<()> {
    let machine = Machine::new()?;
    let holder = TcpListener::bind("127.0.0.1:0")?;
    let port = holder.local_addr()?.port();
    let options = ["--publish", &format!("{port}:80")];
    let finished = machine.script(&options, "true").run()?.expect_code(125)?;
    let expected =
        format!("cannot publish 127.0.0.1:{port}:80/tcp: port {port} of 127.0.0.1 is in use");
    ensure!(finished.stderr.contains(&expected), "{}", finished.stderr);
    ensure!(
        finished.stderr.contains("--publish 127.0.0.1:0:80/tcp"),
        "{}",
        finished.stderr
    );
    Ok(())
}

/// How long it took, at most the time that is given, as long as this machine needs for it.
fn until(begun: Instant, mut done: impl FnMut() -> bool) -> Result<Duration> {
    while !done() {
        if begun.elapsed() > scaled(IN_TIME) {
            bail!("not within {:?}", scaled(IN_TIME));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(begun.elapsed())
}

/// What a web server at this port of 127.0.0.1 answers; the client half-closes after its question.
fn page(port: u16) -> Result<String> {
    let mut client = TcpStream::connect(("127.0.0.1", port))?;
    client.set_read_timeout(Some(scaled(Duration::from_secs(5))))?;
    client.write_all(b"GET /page HTTP/1.0\r\n\r\n")?;
    client.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    Ok(answer)
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
