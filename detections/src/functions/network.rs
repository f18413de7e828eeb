//! IP addresses and networks. An IPv4 address written as an IPv6 one (`::ffff:10.0.0.1`) counts as IPv4.

use std::net::IpAddr;

use super::Function;
use super::matching::{Pattern, matching};
use super::udf::TextFunction;

pub(super) fn functions() -> Vec<TextFunction> {
    let in_range = |network: &Network, address: &str| point(address).is_some_and(|point| network.contains(point));
    vec![
        matching(
            Function {
                name: "is_ip_address_in_range",
                family: "Network",
                signature: "is_ip_address_in_range(address, prefix) -> boolean",
                description: "Whether the IP address is in the network, in CIDR notation; false if it is no address.",
                example: "is_ip_address_in_range('10.1.2.3', '10.0.0.0/8')",
                result: "true",
            },
            Pattern::Second,
            Network::parse,
            in_range,
        ),
        matching(
            Function {
                name: "cidr_contains",
                family: "Network",
                signature: "cidr_contains(prefix, address) -> boolean",
                description: "is_ip_address_in_range with its arguments the other way round.",
                example: "cidr_contains('fd00::/8', 'fd12:3456::1')",
                result: "true",
            },
            Pattern::First,
            Network::parse,
            in_range,
        ),
        TextFunction::predicate(
            Function {
                name: "is_private_ip",
                family: "Network",
                signature: "is_private_ip(address) -> boolean",
                description: "Whether the address is private (RFC 1918, RFC 4193), carrier-grade NAT, loopback or link-local.",
                example: "is_private_ip('100.64.0.1')",
                result: "true",
            },
            |[address]| address.parse().is_ok_and(is_private),
        ),
    ]
}

/// A place among all addresses: those of IPv4 come first.
pub(crate) type Point = (Family, u128);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    fn bits(self) -> u32 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

/// The place of an address, or none if the text is no address.
pub(crate) fn point(address: &str) -> Option<Point> {
    Some(match address.parse::<IpAddr>().ok()?.to_canonical() {
        IpAddr::V4(address) => (Family::V4, u32::from(address).into()),
        IpAddr::V6(address) => (Family::V6, address.into()),
    })
}

/// The addresses of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    pub first: Point,
    pub last: Point,
}

impl Network {
    /// Reads `address/length`; a lone address is a network of one. Bits beyond the length don't count.
    pub(crate) fn parse(prefix: &str) -> Result<Self, String> {
        let wrong = || format!("{prefix:?} is not a network such as 10.0.0.0/8 or fd00::/8");
        let (address, length) = match prefix.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (prefix, None),
        };
        let written: IpAddr = address.parse().map_err(|_| wrong())?;
        let (family, start) = point(address).ok_or_else(wrong)?;
        // The prefix of a mapped address counts the 96 bits before the IPv4 address.
        let mapped = if written.is_ipv6() && family == Family::V4 { 96 } else { 0 };
        let length = match length {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse::<u32>().ok().and_then(|length| length.checked_sub(mapped)).ok_or_else(wrong)?
            }
            Some(_) => return Err(wrong()),
            None => family.bits(),
        };
        let free = family.bits().checked_sub(length).ok_or_else(wrong)?;
        let below = u128::MAX.checked_shr(128 - free).unwrap_or(0);
        Ok(Self { first: (family, start & !below), last: (family, start | below) })
    }

    fn contains(&self, point: Point) -> bool {
        self.first <= point && point <= self.last
    }
}

fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            let carrier_grade_nat = first == 100 && (64..128).contains(&second);
            v4.is_private() || v4.is_loopback() || v4.is_link_local() || carrier_grade_nat
        }
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_loopback() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check, refused};

    #[test]
    fn addresses_in_networks() {
        check(&[
            ("is_ip_address_in_range('127.0.0.1', '127.0.0.0/8')", "true"),
            ("is_ip_address_in_range('128.0.0.1', '127.0.0.0/8')", "false"),
            ("is_ip_address_in_range('10.1.2.3', '10.9.9.9/8')", "true"),
            ("is_ip_address_in_range('10.0.0.255', '10.0.0.0/24')", "true"),
            ("is_ip_address_in_range('10.0.1.0', '10.0.0.0/24')", "false"),
            ("is_ip_address_in_range('10.0.0.1', '10.0.0.1')", "true"),
            ("is_ip_address_in_range('10.0.0.2', '10.0.0.1/32')", "false"),
            ("is_ip_address_in_range('255.255.255.255', '0.0.0.0/0')", "true"),
            ("is_ip_address_in_range('2001:db8::1', '2001:DB8::/32')", "true"),
            ("is_ip_address_in_range('2001:db9::1', '2001:db8::/32')", "false"),
            ("is_ip_address_in_range('::1', '::/0')", "true"),
            ("is_ip_address_in_range('::1', '::1/128')", "true"),
            ("cidr_contains('10.0.0.0/8', '10.1.2.3')", "true"),
            ("cidr_contains('10.0.0.0/8', '11.1.2.3')", "false"),
        ]);
    }

    #[test]
    fn mapped_addresses_are_ipv4_and_the_families_are_apart() {
        check(&[
            ("is_ip_address_in_range('::ffff:10.0.0.1', '10.0.0.0/8')", "true"),
            ("is_ip_address_in_range('10.0.0.1', '::ffff:10.0.0.0/104')", "true"),
            ("is_ip_address_in_range('::ffff:192.168.0.1', '::ffff:192.168.0.4/128')", "false"),
            ("is_ip_address_in_range('127.0.0.1', 'ffff::/16')", "false"),
            ("is_ip_address_in_range('10.0.0.1', '::/0')", "false"),
            ("is_ip_address_in_range('::1', '0.0.0.0/0')", "false"),
        ]);
    }

    #[test]
    fn what_is_no_address_is_in_no_network() {
        for odd in ["", " ", "10.0.0", "010.0.0.1", "10.0.0.1:80", "10.0.0.1/8", "fe80::1%eth0", "[::1]", "é"] {
            check(&[
                (&format!("is_ip_address_in_range('{odd}', '0.0.0.0/0')"), "false"),
                (&format!("is_ip_address_in_range('{odd}', '::/0')"), "false"),
                (&format!("is_private_ip('{odd}')"), "false"),
            ]);
        }
    }

    #[test]
    fn a_literal_that_is_no_network_is_refused() {
        for odd in ["", "/", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/+8", "::/129", "::ffff:10.0.0.0/8", "ten/8"] {
            refused(&format!("is_ip_address_in_range('10.0.0.1', '{odd}')"), &["is not a network such as", odd]);
            refused(&format!("cidr_contains('{odd}', '10.0.0.1')"), &["cidr_contains()", odd]);
        }
        check(&[("is_ip_address_in_range('10.0.0.1', column1) FROM (VALUES ('x'))", "false")]);
    }

    #[test]
    fn private_addresses() {
        for private in [
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "127.0.0.1",
            "169.254.169.254",
            "100.64.0.0",
            "100.127.255.255",
            "::1",
            "fe80::1",
            "fd00::1",
            "::ffff:10.0.0.1",
        ] {
            check(&[(&format!("is_private_ip('{private}')"), "true")]);
        }
        for public in ["8.8.8.8", "172.32.0.1", "100.128.0.0", "100.63.255.255", "2001:db8::1", "::ffff:8.8.8.8"] {
            check(&[(&format!("is_private_ip('{public}')"), "false")]);
        }
    }
}
