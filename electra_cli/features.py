"""Names, dtypes and shapes of the features of a batch."""

# int32 [batch, seq_length]: token ids; after masking, with [MASK] in most of the masked slots.
INPUT_WORD_IDS = "input_word_ids"
# int32 [batch, seq_length]: 1 for a real token, 0 for padding.
INPUT_MASK = "input_mask"
# int32 [batch, seq_length]: 0 for the first segment and padding, 1 for the second.
INPUT_TYPE_IDS = "input_type_ids"
# int32 [batch, num_token_predictions]: positions of the masked slots, ascending; unused slots hold 0.
MASKED_LM_POSITIONS = "masked_lm_positions"
# int32 [batch, num_token_predictions]: the original ids at those positions; unused slots hold 0.
MASKED_LM_IDS = "masked_lm_ids"
# float32 [batch, num_token_predictions]: 1 for a masked slot, 0 for an unused one.
MASKED_LM_WEIGHTS = "masked_lm_weights"
# float32 [batch, num_token_predictions], in [0, 1): the draw that the generator's sample at each slot is made with.
# It travels with the example, so that the sample does not depend on which replica draws it.
SAMPLING_UNIFORM = "sampling_uniform"
# int32 [batch, seq_length]: 1 for a token that belongs to the word of the token before it. Only in data whose words
# were given when it was prepared, and only before masking.
CONTINUES_WORD = "continues_word"

UNMASKED = (INPUT_WORD_IDS, INPUT_MASK, INPUT_TYPE_IDS)
MASKED = (*UNMASKED, MASKED_LM_POSITIONS, MASKED_LM_IDS, MASKED_LM_WEIGHTS, SAMPLING_UNIFORM)
