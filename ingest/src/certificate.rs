//! The names in a client certificate. Read only after rustls has verified the certificate against the configured CA.

/// Whom a certificate names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The subject's common name; of several, the last.
    pub common_name: Option<String>,
    /// DNS names, e-mail addresses and URIs among the alternative names.
    pub alternative: Vec<String>,
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_ID: u8 = 0x06;
const BOOLEAN: u8 = 0x01;
const OCTET_STRING: u8 = 0x04;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// 2.5.29.17
const ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1d, 0x11];

impl Names {
    /// The names in a DER certificate; none of them if it is not one.
    pub fn of(der: &[u8]) -> Self {
        Self::read(der).unwrap_or_default()
    }

    fn read(der: &[u8]) -> Option<Self> {
        let mut certificate = Der(expect(&mut Der(der), SEQUENCE)?);
        let mut body = Der(expect(&mut certificate, SEQUENCE)?);
        let first = body.next()?;
        if first.0 == VERSION {
            let _serial_number = body.next()?;
        }
        let (_algorithm, _issuer, _validity) = (body.next()?, body.next()?, body.next()?);
        let mut names = Self { common_name: common_name(expect(&mut body, SEQUENCE)?), alternative: Vec::new() };
        let extensions = body.find(|(tag, _)| *tag == EXTENSIONS);
        if let Some((_, extensions)) = extensions {
            names.alternative = alternative_names(expect(&mut Der(extensions), SEQUENCE)?);
        }
        Some(names)
    }
}

fn common_name(subject: &[u8]) -> Option<String> {
    let sets = Der(subject).filter(|(tag, _)| *tag == SET).flat_map(|(_, set)| Der(set));
    let found = sets.filter_map(|(_, attribute)| {
        let mut attribute = Der(attribute);
        let (kind, value) = (attribute.next()?, attribute.next()?);
        (kind == (OBJECT_ID, COMMON_NAME)).then_some(value.1)
    });
    found.last().and_then(|value| String::from_utf8(value.to_vec()).ok())
}

fn alternative_names(extensions: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    for (_, extension) in Der(extensions) {
        let mut extension = Der(extension);
        if extension.next() != Some((OBJECT_ID, ALTERNATIVE_NAME)) {
            continue;
        }
        let value = extension.find(|(tag, _)| *tag != BOOLEAN);
        let Some((OCTET_STRING, value)) = value else { continue };
        let Some(list) = expect(&mut Der(value), SEQUENCE) else { continue };
        // rfc822Name, dNSName and uniformResourceIdentifier, all of them ASCII.
        let texts = Der(list).filter(|(tag, _)| matches!(tag, 0x81 | 0x82 | 0x86));
        names.extend(texts.filter_map(|(_, text)| String::from_utf8(text.to_vec()).ok()));
    }
    names
}

fn expect<'a>(der: &mut Der<'a>, tag: u8) -> Option<&'a [u8]> {
    der.next().filter(|found| found.0 == tag).map(|found| found.1)
}

/// A sequence of tagged values. Ends early where it is not DER.
struct Der<'a>(&'a [u8]);

impl<'a> Iterator for Der<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let mut length = usize::from(first);
        if first >= 0x80 {
            let (digits, behind) = rest.split_at_checked(usize::from(first & 0x7f))?;
            if digits.len() > 4 {
                return None;
            }
            length = digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit));
            rest = behind;
        }
        let (value, behind) = rest.split_at_checked(length)?;
        self.0 = behind;
        Some((tag, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_names_of_a_certificate() {
        let mut params = rcgen::CertificateParams::new(vec!["api.example".into(), "b.example".into()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "org");
        params.distinguished_name.push(rcgen::DnType::CommonName, "the-apiserver");
        let key = rcgen::KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        let names = Names::of(&der);
        assert_eq!(names.common_name.as_deref(), Some("the-apiserver"));
        assert_eq!(names.alternative, ["api.example", "b.example"]);
        for end in 0..der.len() {
            Names::of(&der[..end]); // whatever it is cut to, it only finds less
        }
        assert_eq!(Names::of(b""), Names::default());
        assert_eq!(Names::of(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]), Names::default());
    }
}
