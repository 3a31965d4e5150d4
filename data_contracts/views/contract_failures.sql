-- Grain: one finding on one row that was left out. `uri` is the Parquet that holds the row itself.
CREATE VIEW contract_failures AS
SELECT
    stage.parent_run_id AS run_id,
    stage.name AS stage,
    quarantined.kind,
    quarantined.row_id,
    quarantined.column_name,
    quarantined.expectation,
    quarantined.value,
    quarantined.reason,
    quarantined.uri
FROM quarantined
JOIN run AS stage USING (run_id);
