//! What was probably meant by a name that isn't known.

/// Names that are offered at most.
const OFFERED: usize = 3;

/// `; did you mean …?` with the known names that are nearest, or nothing if none is near.
pub fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let near = nearest(name, known);
    if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(" or ")) }
}

/// The names that are a few slips away, or that `name` is a part of; the nearest first.
fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let name = name.to_lowercase();
    let slips = (name.chars().count() / 3).max(1);
    let mut near = Vec::new();
    for candidate in known {
        let distance = strsim::damerau_levenshtein(&name, &candidate.to_lowercase());
        let part = name.chars().count() > 2 && candidate.to_lowercase().contains(&name);
        if distance <= slips || part {
            near.push((distance, candidate));
        }
    }
    near.sort_unstable();
    near.into_iter().take(OFFERED).map(|(_, candidate)| candidate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_offered() {
        let known = ["image_tag", "image_digest", "image_registry", "user_kind", "->>"];
        assert_eq!(did_you_mean("imgae_tag", known), "; did you mean image_tag?");
        assert_eq!(did_you_mean("User_Kind", known), "; did you mean user_kind?");
        assert_eq!(did_you_mean("image", known), "; did you mean image_tag or image_digest or image_registry?");
        assert_eq!(did_you_mean("->", known), "; did you mean ->>?");
        assert_eq!(did_you_mean("", known), "");
        assert_eq!(did_you_mean("nothing_like_it", known), "");
    }
}
