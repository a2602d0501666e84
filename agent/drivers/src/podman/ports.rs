//! Ports of the box that a pod wants: whether they can be had is tried by us, as podman does harm when it tries in
//! vain (docs/adr/0008).

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::time::Duration;

use holdfast_core::pod::{PortMapping, Protocol};
use tokio::time::{Instant, sleep};

/// How long a port may still be held by what has just gone.
const LET_GO: Duration = Duration::from_secs(2);
/// How often it is tried.
const LOOK: Duration = Duration::from_millis(20);

/// Whether all these ports can be had, but for those that are `published` by what goes; or which one can't.
pub(super) async fn free(wanted: &[PortMapping], published: &[u16]) -> Result<(), String> {
    let since = Instant::now();
    for port in wanted.iter().filter(|port| !published.contains(&port.host_port)) {
        while is_taken(port) {
            if since.elapsed() >= LET_GO {
                let PortMapping { host_port, .. } = port;
                return Err(format!(
                    "port {host_port} of this box is in use by another program: stop that program, or choose \
                     another hostPort"
                ));
            }
            sleep(LOOK).await;
        }
    }
    Ok(())
}

/// Whether somebody else has the port. What can't be tried here is podman's to say.
fn is_taken(port: &PortMapping) -> bool {
    let address = (port.host_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), port.host_port);
    let tried = match port.protocol {
        Protocol::Tcp => TcpListener::bind(address).map(drop),
        Protocol::Udp => UdpSocket::bind(address).map(drop),
        Protocol::Sctp => Ok(()),
    };
    tried.is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_port_that_another_program_has_is_named() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let host_port = other.local_addr().unwrap().port();
        let wanted = [PortMapping { host_ip: None, host_port, container_port: 80, protocol: Protocol::Tcp }];
        let why = free(&wanted, &[]).await.unwrap_err();
        assert!(why.contains(&host_port.to_string()), "{why}");
        free(&wanted, &[host_port]).await.unwrap();
        drop(other);
        free(&wanted, &[]).await.unwrap();
    }
}
