//! Which shards does the reader of the page want to see, and in which order?

use form_urlencoded::Serializer;

/// The longest filter that is heeded.
const LONGEST: usize = 200;

/// What the reader of the page asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Query {
    /// Only shards whose row contains this text.
    pub(crate) filter: String,
    pub(crate) sort: Sort,
    /// Whether all shards are shown, however many there are.
    pub(crate) all: bool,
}

/// The order of the shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Sort {
    /// The greatest lag first.
    #[default]
    Lag,
    /// The highest rate first.
    Rate,
    /// The most in flight first.
    InFlight,
    /// By stream and id.
    Shard,
}

impl Sort {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lag => "lag",
            Self::Rate => "rate",
            Self::InFlight => "in-flight",
            Self::Shard => "shard",
        }
    }
}

impl Query {
    /// Reads the query of an address. What is not understood is ignored.
    pub(crate) fn parse(query: &str) -> Self {
        let mut parsed = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match (&*name, &*value) {
                ("filter", filter) => parsed.filter = filter.trim().chars().take(LONGEST).collect(),
                ("sort", name) => {
                    let sorts = [Sort::Lag, Sort::Rate, Sort::InFlight, Sort::Shard];
                    parsed.sort = sorts.into_iter().find(|sort| sort.name() == name).unwrap_or_default();
                }
                ("all", _) => parsed.all = true,
                _ => {}
            }
        }
        parsed
    }

    /// The same query in another order.
    pub(crate) fn sorted(&self, sort: Sort) -> Self {
        Self { sort, ..self.clone() }
    }

    /// The same query for all shards.
    pub(crate) fn all(&self) -> Self {
        Self { all: true, ..self.clone() }
    }

    /// The address of the page with this query.
    pub(crate) fn link(&self) -> String {
        let mut query = Serializer::new(String::new());
        if !self.filter.is_empty() {
            query.append_pair("filter", &self.filter);
        }
        if self.sort != Sort::default() {
            query.append_pair("sort", self.sort.name());
        }
        if self.all {
            query.append_pair("all", "1");
        }
        let query = query.finish();
        if query.is_empty() { "/".to_owned() } else { format!("/?{query}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_survives_its_address_and_odd_ones_are_ignored() {
        let query = Query { filter: "a&b=\"<é>".to_owned(), sort: Sort::Rate, all: true };
        let link = query.link();
        assert_eq!(Query::parse(link.strip_prefix("/?").unwrap()), query);
        assert_eq!(Query::default().link(), "/");
        assert_eq!(Query::parse("sort=odd&&x=%ff%zz&=1"), Query::default());
        assert_eq!(Query::parse(&format!("filter={}", "x".repeat(10_000))).filter.len(), LONGEST);
    }
}
