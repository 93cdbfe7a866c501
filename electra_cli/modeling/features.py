"""Names, dtypes and shapes of the features of a batch."""

from collections.abc import Iterable

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
# int32 [batch, seq_length]: 1 for a token that might be masked. Only after masking, where the objective asks for it.
MASKABLE = "maskable"
# float32, scalar: where the temperature of samples changes over the run, that of the step; no part of batches.
SAMPLING_TEMPERATURE = "sampling_temperature"
# int32 [batch, seq_length]: 1 for a token that belongs to the word of the token before it. Only in data whose words
# were given when it was prepared, and only before masking.
CONTINUES_WORD = "continues_word"

# Only in data of several documents an example (--packing=full):
# int32 [batch, seq_length]: number of a token's document in the example, from 1; 0 for padding.
DOCUMENT_IDS = "document_ids"
# int32 [batch, seq_length]: index of a token in its document, from 0.
POSITION_IDS = "position_ids"
PACKED = (DOCUMENT_IDS, POSITION_IDS)

# Of records, int64: [1], tokens up to the first [SEP]; [documents], tokens of each document.
FIRST_SEGMENT_LENGTH = "first_segment_length"
DOCUMENT_LENGTHS = "document_lengths"

UNMASKED = (INPUT_WORD_IDS, INPUT_MASK, INPUT_TYPE_IDS)
MASKED = (*UNMASKED, MASKED_LM_POSITIONS, MASKED_LM_IDS, MASKED_LM_WEIGHTS, SAMPLING_UNIFORM)


def encoder_inputs(batch: Iterable[str]) -> tuple[str, ...]:
    """Returns the features of a batch that an encoder reads."""
    return (*UNMASKED, *PACKED) if DOCUMENT_IDS in batch else UNMASKED
