//! Delta's errors as the store's: what a retry may help with, and what it can't.

use deltalake::DeltaTableError;
use deltalake::kernel::transaction::{CommitConflictError, TransactionError};
use vedette_schemas::Table;

use crate::store::StoreError;

const STORE: &str = "lake";

pub(super) fn rejected(reason: String) -> StoreError {
    StoreError::Rejected { store: STORE, reason }
}

pub(super) fn unavailable(reason: String) -> StoreError {
    StoreError::Unavailable { store: STORE, reason }
}

/// An error of one table. What can't be told apart counts as passing, since giving up loses more than trying again.
pub(super) fn store_error(table: Table, error: &DeltaTableError) -> StoreError {
    let reason = match error {
        DeltaTableError::NotATable(_) => format!("{}: there is no such table yet, nothing was stored", table.name()),
        error => format!("{}: {error}", table.name()),
    };
    match error {
        DeltaTableError::SchemaMismatch { .. }
        | DeltaTableError::InvalidTableLocation(_)
        | DeltaTableError::Transaction {
            source: TransactionError::UnsupportedTableFeatures(_) | TransactionError::DeltaTableAppendOnly,
        } => rejected(reason),
        _ => unavailable(reason),
    }
}

/// Whether another writer's commit came first, so that the same work against a newer snapshot may succeed.
pub(super) fn is_conflict(error: &DeltaTableError) -> bool {
    match error {
        DeltaTableError::VersionAlreadyExists(_) => true,
        DeltaTableError::Transaction { source } => match source {
            TransactionError::VersionAlreadyExists(_) | TransactionError::MaxCommitAttempts(_) => true,
            TransactionError::CommitConflict(conflict) => matches!(
                conflict,
                CommitConflictError::ConcurrentAppend
                    | CommitConflictError::ConcurrentDeleteRead
                    | CommitConflictError::ConcurrentDeleteDelete
                    | CommitConflictError::ConcurrentTransaction
                    | CommitConflictError::MetadataChanged
                    | CommitConflictError::ProtocolChanged(_)
            ),
            _ => false,
        },
        _ => false,
    }
}
