-- Grain: one dataset and one input of the run that made it.
CREATE VIEW made_from AS
SELECT
    made.dataset_id,
    made.kind,
    made.run_id AS stage_run_id,
    input.name AS input_name,
    source.dataset_id AS input_dataset_id,
    source.kind AS input_kind
FROM dataset AS made
JOIN input ON input.run_id = made.run_id
JOIN dataset AS source ON source.dataset_id = input.dataset_id;
