//! The inner learning rate γ: a number, or `auto`.

use serde::{Deserialize, Serialize};

/// The inner learning rate γ of the Neumann series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gamma {
    /// γ = 1/λ_max(H), λ_max by power iteration on the exact product.
    Auto,
    /// A fixed positive number.
    Fixed(f32),
}

impl Serialize for Gamma {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Gamma::Auto => serializer.serialize_str("auto"),
            // Through the shortest decimal that gives the same f32, so that 0.025 stays 0.025.
            Gamma::Fixed(gamma) => {
                serializer.serialize_f64(gamma.to_string().parse().unwrap_or(f64::from(*gamma)))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Gamma {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Text {
            Number(f64),
            Word(String),
        }
        let text = match Text::deserialize(deserializer)? {
            Text::Number(number) => number.to_string(),
            Text::Word(word) => word,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl std::str::FromStr for Gamma {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Gamma::Auto);
        }
        match text.parse::<f32>() {
            Ok(gamma) if gamma > 0.0 && gamma.is_finite() => Ok(Gamma::Fixed(gamma)),
            _ => Err(format!(
                "expected `auto` or a positive finite number, found `{text}`"
            )),
        }
    }
}
