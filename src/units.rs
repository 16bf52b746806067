//! Quantities as people write them (`64MiB`, `10min`, `10M`, `1%`): parse, print, serde, JSON Schema.
//!
//! Each type reads a number with a unit as a string and, where that is unambiguous, a plain number.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes: `64MiB`, `1.5GB`, `4096`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A count with an optional decimal suffix: `4096`, `10k`, `10M`, `1.5B`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count(pub u64);

/// A span of time: `500ms`, `30s`, `10min`, `2h`, `1d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(pub Duration);

/// A share between 0 and 1, written in percent: `1%`, `0.5%`, `100%`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Percent(f64);

impl Percent {
    /// From a share in `[0, 1]`; values outside are clamped.
    pub fn from_share(share: f64) -> Self {
        Self(share.clamp(0.0, 1.0))
    }

    /// The share in `[0, 1]`.
    pub fn share(self) -> f64 {
        self.0
    }
}

/// Splits `"64 MiB"` into `(64.0, "MiB")`.
fn number_and_suffix(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_')).unwrap_or(text.len());
    let number: f64 = text[..end].replace('_', "").parse().ok()?;
    number.is_finite().then_some((number, text[end..].trim()))
}

/// `number * factor` as an exact integer, if it is one that fits.
fn whole(number: f64, factor: f64) -> Option<u64> {
    let value = number * factor;
    (value >= 0.0 && value < 2f64.powi(63) && (value.fract() == 0.0)).then_some(value as u64)
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rule = || format!("`{text}` is not a size: write bytes with a unit, such as 512KiB, 64MiB, 8GiB, 10MB");
        if let Ok(number) = text.trim().parse() {
            // plain numbers are exact, beyond what f64 holds too
            return Ok(Self(number));
        }
        let (number, suffix) = number_and_suffix(text).ok_or_else(rule)?;
        let factor = match suffix {
            "" | "B" => 1.0,
            "KiB" => 1024.0,
            "MiB" => 1024f64.powi(2),
            "GiB" => 1024f64.powi(3),
            "TiB" => 1024f64.powi(4),
            "kB" | "KB" => 1e3,
            "MB" => 1e6,
            "GB" => 1e9,
            "TB" => 1e12,
            _ => return Err(rule()),
        };
        whole((number * factor).round(), 1.0).map(Self).ok_or_else(rule)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            let one = 1u64 << shift;
            if self.0 >= one {
                return if self.0.is_multiple_of(one) {
                    write!(f, "{}{unit}", self.0 / one)
                } else {
                    write!(f, "{:.1}{unit}", self.0 as f64 / one as f64)
                };
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rule = || format!("`{text}` is not a count: write a whole number, such as 4096, 10k, 10M, 1.5B");
        if let Ok(number) = text.trim().parse() {
            // plain numbers are exact, beyond what f64 holds too
            return Ok(Self(number));
        }
        let (number, suffix) = number_and_suffix(text).ok_or_else(rule)?;
        let factor = match suffix {
            "" => 1.0,
            "k" | "K" => 1e3,
            "M" => 1e6,
            "B" | "G" => 1e9,
            _ => return Err(rule()),
        };
        whole(number, factor).map(Self).ok_or_else(rule)
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n >= 1_000_000_000 => write!(f, "{:.2}B", n as f64 / 1e9),
            n if n >= 1_000_000 => write!(f, "{:.2}M", n as f64 / 1e6),
            n if n >= 100_000 => write!(f, "{:.0}k", n as f64 / 1e3),
            n => write!(f, "{n}"),
        }
    }
}

impl FromStr for HumanDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rule = || format!("`{text}` is not a duration: write a number with a unit, such as 500ms, 30s, 10min, 2h");
        let (number, suffix) = number_and_suffix(text).ok_or_else(rule)?;
        let secs = match suffix {
            "ms" => 1e-3,
            "s" => 1.0,
            "min" | "m" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return Err(rule()),
        };
        Duration::try_from_secs_f64(number * secs).map(Self).map_err(|_| rule())
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        match ms {
            0 => write!(f, "0s"),
            _ if ms.is_multiple_of(86_400_000) => write!(f, "{}d", ms / 86_400_000),
            _ if ms.is_multiple_of(3_600_000) => write!(f, "{}h", ms / 3_600_000),
            _ if ms.is_multiple_of(60_000) => write!(f, "{}min", ms / 60_000),
            _ if ms.is_multiple_of(1000) => write!(f, "{}s", ms / 1000),
            _ => write!(f, "{ms}ms"),
        }
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rule = || format!("`{text}` is not a share: write percent between 0% and 100%, such as 1%");
        let (number, suffix) = number_and_suffix(text).ok_or_else(rule)?;
        if suffix != "%" || !(0.0..=100.0).contains(&number) {
            return Err(rule());
        }
        Ok(Self(number / 100.0))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", (self.0 * 1e8).round() / 1e6)
    }
}

/// serde and JSON Schema for a type that parses from a string and perhaps from a plain whole number.
macro_rules! human_unit {
    ($type:ident, $format:literal, $description:literal, number: $number:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&self.exact())
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl de::Visitor<'_> for Visitor {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($description)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }

                    fn visit_u64<E: de::Error>(self, number: u64) -> Result<$type, E> {
                        if !$number {
                            return Err(E::custom(format!("{number} has no unit: expected {}", $description)));
                        }
                        number.to_string().parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_any(Visitor)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                if $number {
                    json_schema!({"type": ["string", "integer"], "minimum": 0, "format": $format, "description": $description})
                } else {
                    json_schema!({"type": "string", "format": $format, "description": $description})
                }
            }
        }
    };
}

impl ByteSize {
    /// Text that parses back to exactly this value.
    fn exact(self) -> String {
        let text = self.to_string();
        if text.parse() == Ok(self) { text } else { self.0.to_string() }
    }
}

impl Count {
    /// Text that parses back to exactly this value.
    fn exact(self) -> String {
        self.0.to_string()
    }
}

impl HumanDuration {
    /// Text that parses back to this value at millisecond precision.
    fn exact(self) -> String {
        self.to_string()
    }
}

impl Percent {
    /// Text that parses back to this value.
    fn exact(self) -> String {
        self.to_string()
    }
}

human_unit!(ByteSize, "byte-size", "a size with a unit, such as 64MiB", number: true);
human_unit!(Count, "count", "a whole number, such as 4096, 10k or 10M", number: true);
human_unit!(HumanDuration, "duration", "a duration with a unit, such as 30s or 10min", number: false);
human_unit!(Percent, "percent", "a share between 0% and 100%, such as 1%", number: false);

/// Check `text` against the unit type that a JSON Schema `format` names. `None`: not one of ours.
pub fn check_format(format: &str, text: &str) -> Option<Result<(), String>> {
    match format {
        "byte-size" => Some(text.parse::<ByteSize>().map(drop)),
        "count" => Some(text.parse::<Count>().map(drop)),
        "duration" => Some(text.parse::<HumanDuration>().map(drop)),
        "percent" => Some(text.parse::<Percent>().map(drop)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_people_write() {
        assert_eq!("64MiB".parse(), Ok(ByteSize(64 << 20)));
        assert_eq!("1.5GB".parse(), Ok(ByteSize(1_500_000_000)));
        assert_eq!("10M".parse(), Ok(Count(10_000_000)));
        assert_eq!("1_000".parse(), Ok(Count(1000)));
        assert_eq!("9223372036854775296".parse(), Ok(ByteSize(9_223_372_036_854_775_296)));
        assert_eq!("10min".parse(), Ok(HumanDuration(Duration::from_secs(600))));
        assert_eq!("1%".parse::<Percent>().map(Percent::share), Ok(0.01));
    }

    #[test]
    fn refuses_wrong_units() {
        assert!("64MB/s".parse::<ByteSize>().is_err());
        assert!("10 parsecs".parse::<HumanDuration>().is_err());
        assert!("1.5".parse::<Count>().is_err());
        assert!("101%".parse::<Percent>().is_err());
        assert!("0.5".parse::<Percent>().is_err());
        assert!("-1".parse::<Count>().is_err());
    }

    #[test]
    fn serialises_to_what_it_parses() {
        for size in [0, 1, 1023, 1 << 20, (1 << 20) + 1, 3 << 30] {
            let text = serde_json::to_string(&ByteSize(size)).unwrap();
            assert_eq!(serde_json::from_str::<ByteSize>(&text).unwrap(), ByteSize(size), "{text}");
        }
        let p: Percent = serde_json::from_str("\"0.25%\"").unwrap();
        assert_eq!(serde_json::to_string(&p).unwrap(), "\"0.25%\"");
    }
}
