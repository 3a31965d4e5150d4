-- Grain: one stage in one run of the pipeline. What ran, what was reused, how long it took, what came out.
CREATE VIEW stage_runs AS
WITH made AS (
    SELECT
        output.run_id,
        map_from_entries(list((output.kind, output.dataset_id) ORDER BY output.kind)) AS outputs,
        map_from_entries(list((output.kind, output.uri) ORDER BY output.kind)) AS uris,
        sum(dataset.num_rows)::BIGINT AS num_rows
    FROM output JOIN dataset USING (dataset_id)
    GROUP BY output.run_id
),
left_out AS (
    SELECT run_id, count(DISTINCT (kind, row_id)) AS num_quarantined FROM quarantined GROUP BY run_id
)
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
    coalesce(made.num_rows, 0) AS num_rows,
    coalesce(left_out.num_quarantined, 0) AS num_quarantined,
    made.outputs,
    made.uris,
    maker.parent_run_id AS made_by_run_id,
    maker.seconds AS made_in_seconds,
    maker.mlflow_run_id,
    maker.mlflow_url,
    maker.facts
FROM run AS stage
JOIN run AS pipeline ON pipeline.run_id = stage.parent_run_id
LEFT JOIN run AS maker ON maker.run_id = coalesce(stage.reused_run_id, stage.run_id)
LEFT JOIN made ON made.run_id = stage.run_id
LEFT JOIN left_out ON left_out.run_id = maker.run_id
ORDER BY pipeline.started_at, stage.started_at;
