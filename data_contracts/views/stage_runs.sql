-- Grain: one stage in one run of the pipeline. What ran, what was reused, how long it took, what came out.
CREATE VIEW stage_runs AS
SELECT
    pipeline.run_id,
    pipeline.name AS config,
    stage.name AS stage,
    stage.state,
    stage.state = 'cached' AS cached,
    stage.started_at,
    stage.ended_at,
    stage.seconds,
    stage.attempts,
    stage.reason,
    output.kind,
    dataset.num_rows,
    output.dataset_id,
    output.uri,
    (
        SELECT count(DISTINCT row_id) FROM quarantined
        WHERE quarantined.run_id = maker.run_id AND quarantined.kind = output.kind
    ) AS num_quarantined,
    maker.parent_run_id AS made_by_run_id,
    maker.mlflow_run_id,
    maker.facts
FROM run AS stage
JOIN run AS pipeline ON pipeline.run_id = stage.parent_run_id
LEFT JOIN run AS maker ON maker.run_id = coalesce(stage.reused_run_id, stage.run_id)
LEFT JOIN output ON output.run_id = stage.run_id
LEFT JOIN dataset USING (dataset_id)
ORDER BY pipeline.started_at, stage.started_at;
