//! Kinds of requests to object stores.

/// What was asked of an object store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreOperation {
    /// Read an object or a part of it.
    Get,
    /// Read an object's size and version.
    Head,
    /// List a prefix.
    List,
    /// Write an object or a part of a multipart upload.
    Put,
    /// Delete an object.
    Delete,
    /// Copy or rename an object.
    Copy,
}

impl StoreOperation {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 6] = [Self::Get, Self::Head, Self::List, Self::Put, Self::Delete, Self::Copy];

    /// Label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Head => "head",
            Self::List => "list",
            Self::Put => "put",
            Self::Delete => "delete",
            Self::Copy => "copy",
        }
    }
}

/// What providers bill an HTTP request as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestClass {
    /// PUT, COPY, POST: writes.
    Write,
    /// A page of a listing.
    List,
    /// GET, HEAD.
    Read,
    /// DELETE.
    Delete,
}

impl RequestClass {
    /// All, in the order of their discriminants.
    pub const ALL: [Self; 4] = [Self::Write, Self::List, Self::Read, Self::Delete];

    /// Label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::List => "list",
            Self::Read => "read",
            Self::Delete => "delete",
        }
    }

    /// What a request with this method and query is billed as.
    pub fn of(method: &str, query: &str) -> Self {
        let lists = ["list-type=", "comp=list", "uploads"].iter().any(|word| query.contains(word));
        match method {
            "GET" if lists => Self::List,
            "GET" | "HEAD" => Self::Read,
            "DELETE" => Self::Delete,
            "POST" if query == "delete" || query == "delete=" => Self::Delete,
            _ => Self::Write,
        }
    }
}
