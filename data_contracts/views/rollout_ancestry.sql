-- Grain: one question of one GRPO completion: the completion, its reward and advantage, and where its prompt came from.
CREATE VIEW rollout_ancestry AS
SELECT
    rollouts.run_id,
    rollouts.dataset_id,
    rollouts.rollout_id,
    rollouts.step,
    rollouts.rollout,
    rollouts.completion,
    rollouts.reward AS rollout_reward,
    rollouts.parts,
    rollouts.advantage,
    rollouts.trained,
    ancestry.* EXCLUDE (run_id, dataset_id)
FROM rollouts
JOIN made_from
    ON made_from.dataset_id = rollouts.dataset_id AND made_from.input_kind = 'dialogues'
LEFT JOIN ancestry
    ON ancestry.dataset_id = made_from.input_dataset_id AND ancestry.dialogue_id = rollouts.dialogue_id;
