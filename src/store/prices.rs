//! What requests and bytes cost: the `prices:` section of a pipeline, and sums by it. The program knows no prices of its
//! own: they differ by provider, region and contract.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::telemetry::metrics::{RequestClass, StoreStats};

/// What the store's provider bills. Everything that is left out costs nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PricesConfig {
    /// The currency of these prices.
    #[serde(default = "default_currency")]
    pub currency: String,
    /// Which price list this is, and of which date: repeated beside every sum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// A thousand requests that write (PUT, POST, COPY).
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub write_1000: f64,
    /// A thousand pages of listings.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub list_1000: f64,
    /// A thousand requests that read (GET, HEAD).
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub read_1000: f64,
    /// A thousand requests that delete.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub delete_1000: f64,
    /// Keeping a gigabyte (10^9 bytes) for a month.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub gb_month: f64,
    /// Reading a gigabyte out of the store.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub read_gb: f64,
}

fn default_currency() -> String {
    "USD".to_owned()
}

/// What remote stores were asked, or will be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Usage {
    /// Requests that write.
    pub write: f64,
    /// Pages of listings.
    pub list: f64,
    /// Requests that read.
    pub read: f64,
    /// Requests that delete.
    pub delete: f64,
    /// Bytes that were read.
    pub read_bytes: f64,
}

impl Usage {
    /// Of all uses of stores so far.
    pub fn so_far<'a>(stores: impl IntoIterator<Item = &'a StoreStats>) -> Self {
        stores.into_iter().fold(Self::default(), |sum, stats| {
            let requests = |class| stats.attempts(class) as f64;
            Self {
                write: sum.write + requests(RequestClass::Write),
                list: sum.list + requests(RequestClass::List),
                read: sum.read + requests(RequestClass::Read),
                delete: sum.delete + requests(RequestClass::Delete),
                read_bytes: sum.read_bytes + stats.remote_bytes.get() as f64,
            }
        })
    }
}

impl PricesConfig {
    /// What `usage` costs.
    pub fn of(&self, usage: &Usage) -> f64 {
        let thousands = usage.write * self.write_1000
            + usage.list * self.list_1000
            + usage.read * self.read_1000
            + usage.delete * self.delete_1000;
        thousands / 1e3 + usage.read_bytes / 1e9 * self.read_gb
    }

    /// What keeping `bytes` costs a month.
    pub fn month(&self, bytes: f64) -> f64 {
        bytes / 1e9 * self.gb_month
    }
}

/// Requests to remote stores so far, and what they cost.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct Spent {
    /// What was asked.
    #[serde(flatten)]
    pub usage: Usage,
    /// Requests that were made again after a failure.
    pub retries: u64,
    /// What it cost, if the pipeline has `prices`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
    /// In this currency.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
}

impl Spent {
    /// Of all uses of stores, by `prices`.
    pub fn so_far<'a>(stores: impl IntoIterator<Item = &'a StoreStats> + Clone, prices: Option<&PricesConfig>) -> Self {
        let usage = Usage::so_far(stores.clone());
        Self {
            usage,
            retries: stores.into_iter().map(|stats| stats.retries.get()).sum(),
            cost: prices.map(|prices| prices.of(&usage)),
            currency: prices.map(|prices| prices.currency.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums() {
        let prices = PricesConfig {
            write_1000: 0.005,
            list_1000: 0.005,
            read_1000: 0.0004,
            gb_month: 0.023,
            read_gb: 0.09,
            ..PricesConfig::default()
        };
        let usage = Usage { write: 2e6, list: 1e5, read: 1e7, delete: 1e9, read_bytes: 5e12 };
        assert!((prices.of(&usage) - (10.0 + 0.5 + 4.0 + 450.0)).abs() < 1e-9);
        assert!((prices.month(1e12) - 23.0).abs() < 1e-9);
        let (a, b) = (StoreStats::default(), StoreStats::default());
        (0..3).for_each(|_| a.attempt(RequestClass::Write));
        b.attempt(RequestClass::List);
        b.retries.inc();
        let spent = Spent::so_far([&a, &b], Some(&prices));
        assert_eq!((spent.usage.write, spent.usage.list, spent.retries), (3.0, 1.0, 1));
        assert!((spent.cost.unwrap() - 0.02e-3).abs() < 1e-12);
    }
}
