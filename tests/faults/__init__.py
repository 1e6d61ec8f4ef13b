"""Faults of quantizers, each with the test that ours does not have it.

Numbers 1 to 33 were reproduced in onnxruntime.quantization 1.31.1, the others are ours, found by tools/fuzz.py or in
use. Where a test is named without a file, it is in this folder.

Wrong numbers without a word:

* 2 Gemm's alpha or beta is lost: test_gemm_alpha_and_beta_are_part_of_the_numbers
* 3 Clip with other bounds than 0 and 6 is dropped: test_clips_with_odd_bounds_still_clip
* 3 Relu whose input was never positive is dropped: test_a_relu_that_was_dead_in_calibration_still_clips
* 4 Entropy chooses MinMax's range: test_entropy_is_not_the_observed_range
* 5 Calibration in chunks drops samples: test_calibration_in_chunks_drops_no_sample
* 8 Small float16 weights become zero: test_float16_weights_of_a_small_range_do_not_become_zero
* 8 float16 Softmax gets a float32 scale: test_float16_softmax_has_a_scale_of_its_type
* 11 A weight is transposed for one reader and so for all: test_a_weight_shared_by_transposed_and_plain_readers
* 18 Infinity in one sample makes a scale infinite: test_a_number_in_a_sample_that_is_not_finite_is_named
* 18 Histograms of samples of unlike size fail: test_samples_of_any_size_and_of_none_are_counted
* 23 Relu is dropped although negative codes exist: test_a_relu_stays_where_its_range_holds_negative_numbers
* 24 A user's ``w_scale`` becomes the scale of w: test_a_users_initializer_with_our_name_keeps_its_numbers
* 26 Ranges of another model are taken from the cache: test_a_cache_of_another_model_is_refused
* 30 A bias gets one 8-bit scale with its outlier: test_one_outlier_among_biases_costs_the_others_nothing
* 33 Unnamed nodes share the wrong bias: test_a_bias_under_two_unnamed_convolutions_has_a_scale_for_each
* 34 float16 products in bodies become zeros: test_float16_products_of_bodies_are_not_fused_to_zeros
* 35 Weights of zeros cannot be verified: test_a_weight_of_zeros_gives_zeros
* 43 float16 biases overflow when the runtime quantizes them: test_float16_biases_do_not_overflow

What belongs to the caller is lost:

* 1 The caller's model is emptied: test_the_callers_model_is_not_destroyed
* 19 A file beside the model is overwritten and removed: test_a_users_files_are_neither_overwritten_nor_deleted
* 19 A model in a read-only folder fails: test_a_model_in_a_folder_that_cannot_be_written_to
* 19 Output over input is written half: test_input_and_output_may_be_one_path
* 19 External data grow with each run: test_external_data_do_not_grow_from_run_to_run
* 19 A missing folder is found in the end: test_a_missing_output_folder_is_told_before_any_sample_is_read
* 19 A full disk leaves a torn file: test_what_fails_leaves_the_old_file
* 19 A killed process leaves a torn file: test_a_killed_run_leaves_the_old_file_or_the_new_one
* 42 It leaves hidden files: tests/graph/test_pending.py::test_what_a_killed_run_leaves_is_removed_by_the_next

Hangs, crashes and invalid models:

* 7 A DequantizeLinear with two readers never ends: test_a_weight_from_a_dequantize_linear_with_two_readers_ends
* 9 Opsets 9 to 12 get an axis: test_old_opsets_get_the_one_that_scales_of_channels_need
* 10 Tied weights per channel fail at run time: test_tied_weights_per_channel
* 12 Captured outputs lose their name: test_outputs_that_a_body_captures_keep_their_name_and_order
* 13 Bodies stay float without a word: test_bodies_are_quantized_or_told_to_stay_float
* 14 Weights behind nodes count as activations: test_weights_behind_other_nodes_are_weights
* 15 Grouped ConvTranspose with bias fails: test_grouped_transposed_convolutions_with_bias_per_channel
* 16 Gemm's bias must be a vector: test_gemm_biases_of_every_broadcast_shape
* 17 MatMul weights of three axes fail at run time: test_matmul_weights_of_three_axes_per_channel
* 22 int4 fails late in other forms: test_forms_that_a_type_does_not_have_are_refused_with_the_way_out
* 25 Importing configures logging: test_importing_the_package_leaves_logging_alone
* 25 A shared weight is packed under one name twice: test_a_shared_weight_is_packed_once_at_any_opset
* 25 Odd block sizes fail in C++: test_block_sizes_without_a_kernel_are_refused_at_once
* 28 Values without a type crash: test_types_that_shape_inference_does_not_know_are_no_obstacle
* 29 A bias that is an input crashes: test_a_bias_that_is_an_input_stays_one
* 29 NaN in a weight is an AssertionError: test_a_weight_with_nan_is_named
* 29 A weight without elements crashes: test_a_weight_without_elements_stays
* 29 float64 stays float without a word: test_float64_models_are_kept_and_the_reason_told
* 29 Functions stay float without a word: test_functions_are_quantized_inside
* 29 Quantized models are quantized again: test_quantizing_twice_changes_nothing
* 36 Strings and sequences: test_strings_sequences_and_optional_inputs_pass_through
* 38 Other bytes in another process: test_the_hash_seed_and_the_processors_change_no_byte
* 37 Nothing to quantize: test_a_model_with_nothing_to_quantize_is_kept_and_told

* 39 Damaged files: test_a_file_with_damaged_bytes_is_read_or_refused
* 39 Names that are no text: test_a_name_that_is_no_text_is_refused
* 40 Constants that unfold to gigabytes: test_a_constant_that_unfolds_to_gigabytes_is_not_computed
* 41 int8 activations beside movers at opset 21: test_signed_activations_beside_movers_load_at_every_opset
* 41 And for devices: test_signed_activations_for_devices_stay_onnx_and_are_verified

Silence:

* 20 What is misspelt is ignored: test_what_is_misspelt_is_an_error_that_offers_the_nearest
* 20 And in the other functions: test_misspelt_nodes_are_an_error_in_every_form
* 27 LSTM, GRU and Einsum stay without a word: test_operators_without_a_static_form_are_told
* 32 MatMulConstBOnly is ignored: test_matmuls_of_two_activations_are_left_only_when_asked
* 32 Names of Gemm nodes are ignored: test_dynamic_quantization_hears_the_names_of_gemms

Time and memory:

* 6 Calibration keeps every tensor of every sample: tests/stages/test_observe.py::test_a_memory_budget_changes_no_bit
* 21 Time grows with the square of the nodes: test_work_grows_in_line_with_the_graph
* 31 Models of 2 GiB fail: tests/flows/test_weight_only_large.py::test_memory_does_not_grow_with_the_model
* 31 They need three times their size: test_memory_is_that_of_a_session_and_little_more
"""
