-- Grain: one student. Who made it, from what, with which settings, and how it answered held-out questions.
CREATE VIEW model_card AS
WITH scored AS (
    SELECT evaluation.run_id, evaluation.student, count(*) AS num_questions, avg(evaluation.accuracy) AS mean_accuracy
    FROM evaluation
    GROUP BY evaluation.run_id, evaluation.student
)
SELECT
    student.dataset_id AS student_id,
    output.uri,
    stage.name AS stage,
    pipeline.run_id,
    pipeline.name AS config,
    pipeline.seed,
    stage.mlflow_run_id,
    stage.ended_at,
    stage.seconds,
    student.num_bytes,
    pipeline.config ->> '$.student.model' AS base,
    pipeline.config -> ('$.' || stage.name) AS settings,
    stage.facts,
    (
        SELECT map_from_entries(list((made_from.input_name, made_from.input_dataset_id) ORDER BY made_from.input_name))
        FROM made_from WHERE made_from.dataset_id = student.dataset_id
    ) AS made_from,
    scored.num_questions,
    scored.mean_accuracy
FROM dataset AS student
JOIN run AS stage ON stage.run_id = student.run_id
JOIN run AS pipeline ON pipeline.run_id = stage.parent_run_id
LEFT JOIN output ON output.run_id = stage.run_id AND output.dataset_id = student.dataset_id
LEFT JOIN scored ON scored.run_id = pipeline.run_id AND scored.student = stage.name
WHERE student.kind = 'student'
ORDER BY stage.ended_at;
