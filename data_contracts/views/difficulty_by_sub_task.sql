-- Grain: one pool of one sub-task in one mining. How hard the mined prompts are for the SFT student.
CREATE VIEW difficulty_by_sub_task AS
SELECT
    run_id,
    dataset_id,
    sub_task,
    pool,
    count(*) AS num_prompts,
    avg(pass_rate) AS mean_pass_rate,
    min(pass_rate) AS lowest_pass_rate,
    max(pass_rate) AS highest_pass_rate,
    count(*) FILTER (WHERE num_all_right = 0) AS num_never_right,
    count(*) FILTER (WHERE num_all_right = num_rollouts) AS num_always_right
FROM difficulty
GROUP BY run_id, dataset_id, sub_task, pool
ORDER BY run_id, sub_task, pool;
