//! The box's own addresses, for `fieldRef: status.hostIP`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Addresses of the documentation (RFC 5737, RFC 3849), which lie behind the default route and are nobody's.
const FAR: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// From which addresses the box speaks to the world, IPv4 first: the source addresses of its default routes. None
/// without such a route.
pub(super) fn of_the_box() -> Vec<IpAddr> {
    FAR.into_iter().filter_map(towards).collect()
}

/// Connecting a UDP socket looks the route up, and sends nothing.
fn towards(far: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if far.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    socket.connect(SocketAddr::new(far, 9)).ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_unspecified() && !own.is_loopback()).then_some(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boxs_address_is_the_one_that_it_reaches_others_from() {
        let loopback = towards(Ipv4Addr::LOCALHOST.into());
        assert_eq!(loopback, None, "nobody else reaches the loopback");
        for address in of_the_box() {
            assert!(!address.is_loopback() && !address.is_unspecified());
            assert!(UdpSocket::bind((address, 0)).is_ok(), "it is one of the box's own");
        }
    }
}
