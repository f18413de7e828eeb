//! The parts of a container image's reference, filled in as Kubernetes does.

use std::borrow::Cow;

use super::Function;
use super::udf::TextFunction;

const DEFAULT_REGISTRY: &str = "docker.io";

pub(super) fn functions() -> Vec<TextFunction> {
    vec![
        TextFunction::text(
            Function {
                name: "image_registry",
                family: "Images",
                signature: "image_registry(image) -> text",
                description: "Host of the registry that the image comes from; docker.io if it names none.",
                example: "image_registry('localhost:5000/team/app:v1')",
                result: "localhost:5000",
            },
            |[image]| Some(Cow::Borrowed(Reference::parse(image)?.registry)),
        ),
        TextFunction::text(
            Function {
                name: "image_repository",
                family: "Images",
                signature: "image_repository(image) -> text",
                description: "The image's repository in its registry; docker.io's official ones are in library/.",
                example: "image_repository('nginx:1.29')",
                result: "library/nginx",
            },
            |[image]| Some(Reference::parse(image)?.repository),
        ),
        TextFunction::text(
            Function {
                name: "image_tag",
                family: "Images",
                signature: "image_tag(image) -> text",
                description: "The image's tag; null if it has none, which Kubernetes takes for latest.",
                example: "image_tag('registry.example.com:5000/app:v1')",
                result: "v1",
            },
            |[image]| Reference::parse(image)?.tag.map(Cow::Borrowed),
        ),
        TextFunction::text(
            Function {
                name: "image_digest",
                family: "Images",
                signature: "image_digest(image) -> text",
                description: "The digest that the image is pinned to; null if it is not.",
                example: "image_digest('nginx:1.29@sha256:0123abcd')",
                result: "sha256:0123abcd",
            },
            |[image]| Reference::parse(image)?.digest.map(Cow::Borrowed),
        ),
    ]
}

/// An image's reference, taken apart.
struct Reference<'a> {
    registry: &'a str,
    repository: Cow<'a, str>,
    tag: Option<&'a str>,
    digest: Option<&'a str>,
}

impl<'a> Reference<'a> {
    /// None if the text is no reference.
    fn parse(image: &'a str) -> Option<Self> {
        if image.contains(char::is_whitespace) {
            return None;
        }
        let (named, digest) = cut(image, image.find('@'));
        // A colon before the last slash belongs to the registry's port.
        let last_part = named.rfind('/').map_or(0, |slash| slash + 1);
        let colon = named[last_part..].find(':').map(|colon| last_part + colon);
        let (path, tag) = cut(named, colon);
        let (registry, repository) = match path.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
            _ => (DEFAULT_REGISTRY, path),
        };
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        if repository.is_empty() {
            return None;
        }
        let official = registry == DEFAULT_REGISTRY && !repository.contains('/');
        let repository = if official { Cow::Owned(format!("library/{repository}")) } else { Cow::Borrowed(repository) };
        Some(Self { registry, repository, tag, digest })
    }
}

/// What comes before a separator of one byte, and what after it, if there is any.
fn cut(text: &str, separator: Option<usize>) -> (&str, Option<&str>) {
    match separator {
        Some(at) => (&text[..at], Some(&text[at + 1..]).filter(|rest| !rest.is_empty())),
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::check;

    #[test]
    fn references() {
        let cases = [
            ("nginx", ["docker.io", "library/nginx", "null", "null"]),
            ("nginx:latest", ["docker.io", "library/nginx", "latest", "null"]),
            ("team/app", ["docker.io", "team/app", "null", "null"]),
            ("docker.io/nginx", ["docker.io", "library/nginx", "null", "null"]),
            ("index.docker.io/team/app", ["docker.io", "team/app", "null", "null"]),
            ("ghcr.io/a/b/c:1.2", ["ghcr.io", "a/b/c", "1.2", "null"]),
            ("localhost/app", ["localhost", "app", "null", "null"]),
            ("localhost:5000/a/b:v1@sha256:ff", ["localhost:5000", "a/b", "v1", "sha256:ff"]),
            ("localhost:5000/a", ["localhost:5000", "a", "null", "null"]),
            ("localhost:5000", ["docker.io", "library/localhost", "5000", "null"]),
            ("nginx@sha256:ff", ["docker.io", "library/nginx", "null", "sha256:ff"]),
            ("10.0.0.1/app", ["10.0.0.1", "app", "null", "null"]),
            ("[::1]:5000/app", ["[::1]:5000", "app", "null", "null"]),
            ("nginx:", ["docker.io", "library/nginx", "null", "null"]),
            ("nginx@", ["docker.io", "library/nginx", "null", "null"]),
            ("", ["null"; 4]),
            ("/", ["docker.io", "/", "null", "null"]),
            (":", ["null"; 4]),
            ("@sha256:ff", ["null"; 4]),
            ("ghcr.io/", ["null"; 4]),
            ("ghcr.io/:v1", ["null"; 4]),
            ("two words", ["null"; 4]),
        ];
        for (image, expected) in cases {
            for (part, expected) in ["registry", "repository", "tag", "digest"].into_iter().zip(expected) {
                check(&[(&format!("image_{part}('{image}')"), expected)]);
            }
        }
    }
}
