"""The operations that may be in a SavedModel's graph: what is loaded there is run, and some write files."""

from edge_runtime.errors import UsageError
from edge_runtime.text import printable

# They compute with what they are given, or keep it in memory; nothing else is run. TensorFlow has hundreds more; some
# write files, and their names do not say so (PrintV2, MergeV2Checkpoints).
_ARITHMETIC = """
    Abs Acos Acosh Add AddN AddV2 All Angle Any ApproximateEqual ArgMax ArgMin Asin Asinh Atan Atan2 Atanh BatchMatMul
    BatchMatMulV2 BatchMatMulV3 Bincount Bitcast BitwiseAnd BitwiseOr BitwiseXor Bucketize Cast Ceil ClipByValue Cos
    Cosh Cross Cumprod Cumsum CumulativeLogsumexp DenseBincount Div DivNoNan Einsum Equal Erf Erfc Erfinv
    EuclideanNorm Exp Expm1 Floor FloorDiv FloorMod Greater GreaterEqual Inv Invert IsFinite IsInf IsNan LeftShift
    Less LessEqual Lgamma LinSpace Log Log1p LogicalAnd LogicalNot LogicalOr MatMul Max Maximum Mean Min Minimum Mod
    Mul MulNoNan Neg NextAfter NotEqual Pow Prod Range RealDiv Reciprocal RightShift Rint Round Rsqrt SegmentMax
    SegmentMean SegmentMin SegmentProd SegmentSum Select SelectV2 Sigmoid Sign Sin Sinh Sqrt Square SquaredDifference
    Sub Sum Tan Tanh TruncateDiv TruncateMod UnsortedSegmentMax UnsortedSegmentMin UnsortedSegmentProd
    UnsortedSegmentSum Xdivy Xlog1py Xlogy
"""
_LAYERS = """
    _FusedConv2D AvgPool AvgPool3D BatchNormWithGlobalNormalization BiasAdd BiasAddV1 Conv2D Conv2DBackpropInput
    Conv3D Conv3DBackpropInputV2 DepthwiseConv2dNative Dequantize Dilation2D Elu FakeQuantWithMinMaxArgs
    FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel FractionalAvgPool FractionalMaxPool FusedBatchNorm
    FusedBatchNormV2 FusedBatchNormV3 FusedPadConv2D FusedResizeAndPadConv2D InTopK InTopKV2 L2Loss LeakyRelu
    LogSoftmax LRN MaxPool MaxPool3D MaxPoolV2 MaxPoolWithArgmax NthElement QuantizeAndDequantizeV2
    QuantizeAndDequantizeV3 QuantizeAndDequantizeV4 QuantizeV2 Relu Relu6 Selu Softmax SoftmaxCrossEntropyWithLogits
    Softplus Softsign SparseSoftmaxCrossEntropyWithLogits TopK TopKV2
"""
_SHAPES = """
    BatchToSpace BatchToSpaceND BroadcastArgs BroadcastTo CheckNumerics CheckNumericsV2 Concat ConcatOffset ConcatV2
    Const DeepCopy DepthToSpace Diag DiagPart DynamicPartition DynamicStitch Empty EnsureShape ExpandDims
    ExtractImagePatches Fill Gather GatherNd GatherV2 GuaranteeConst Identity IdentityN InvertPermutation ListDiff
    MatrixBandPart MatrixDiag MatrixDiagPart MatrixDiagPartV2 MatrixDiagPartV3 MatrixDiagV2 MatrixDiagV3 MatrixInverse
    MatrixSetDiag MirrorPad OneHot OnesLike Pack Pad PadV2 ParallelConcat ParallelDynamicStitch Placeholder
    PlaceholderV2 PlaceholderWithDefault PreventGradient Rank Reshape Reverse ReverseSequence ReverseV2 Roll ScatterNd
    Shape ShapeN Size Slice Snapshot SpaceToBatch SpaceToBatchND SpaceToDepth Split SplitV Squeeze StopGradient
    StridedSlice TensorScatterAdd TensorScatterMax TensorScatterMin TensorScatterSub TensorScatterUpdate
    TensorStridedSliceUpdate Tile Transpose Unique UniqueV2 UniqueWithCounts Unpack UnravelIndex Where ZerosLike
"""
_PICTURES_AND_TEXT = """
    AdjustContrast AdjustContrastv2 AdjustHue AdjustSaturation AsString CropAndResize DecodeAndCropJpeg DecodeBase64
    DecodeBmp DecodeGif DecodeImage DecodeJpeg DecodePng DecodeRaw DrawBoundingBoxes EncodeBase64 EncodeJpeg EncodePng
    ExtractGlimpse ExtractJpegShape HSVToRGB ImageProjectiveTransformV2 ImageProjectiveTransformV3 NonMaxSuppression
    NonMaxSuppressionV2 NonMaxSuppressionV3 NonMaxSuppressionV4 NonMaxSuppressionV5 ParseExample ParseExampleV2
    ParseSingleExample ParseTensor ReduceJoin RegexFullMatch RegexReplace ResizeArea ResizeBicubic ResizeBilinear
    ResizeNearestNeighbor RGBToHSV SampleDistortedBoundingBox SampleDistortedBoundingBoxV2 ScaleAndTranslate
    StatelessSampleDistortedBoundingBox StaticRegexFullMatch StaticRegexReplace StringFormat StringJoin StringLength
    StringLower StringSplit StringSplitV2 StringStrip StringToHashBucketFast StringToNumber StringUpper Substr
"""
# For what only training does.
_RANDOM = """
    Multinomial ParameterizedTruncatedNormal RandomGamma RandomShuffle RandomStandardNormal RandomUniform
    RandomUniformInt RngReadAndSkip RngSkip StatefulStandardNormalV2 StatefulTruncatedNormal StatefulUniform
    StatefulUniformFullInt StatefulUniformInt StatelessMultinomial StatelessRandomBinomial StatelessRandomGetAlg
    StatelessRandomGetKeyCounter StatelessRandomGetKeyCounterAlg StatelessRandomNormal StatelessRandomNormalV2
    StatelessRandomUniform StatelessRandomUniformFullInt StatelessRandomUniformFullIntV2 StatelessRandomUniformInt
    StatelessRandomUniformIntV2 StatelessRandomUniformV2 StatelessShuffle StatelessTruncatedNormal
    StatelessTruncatedNormalV2 TruncatedNormal
"""
_CONTROL = """
    Assert Case ControlTrigger Enter Exit If LoopCond Merge NextIteration NoOp PartitionedCall RefEnter RefExit
    RefIdentity RefMerge RefNextIteration RefSelect RefSwitch StatefulPartitionedCall StatelessCase StatelessIf
    StatelessWhile Switch While
"""
# In memory. A table may be filled from the file with the names of the classes, which it only reads.
_STATE = """
    Assign AssignAdd AssignAddVariableOp AssignSub AssignSubVariableOp AssignVariableOp DestroyResourceOp
    DisableCopyOnRead HashTable HashTableV2 InitializeTable InitializeTableFromTextFile InitializeTableFromTextFileV2
    InitializeTableV2 IsVariableInitialized LookupTableExport LookupTableExportV2 LookupTableFind LookupTableFindV2
    LookupTableImport LookupTableImportV2 LookupTableInsertV2 LookupTableSize LookupTableSizeV2 MutableHashTable
    MutableHashTableV2 ReadVariableOp ResourceGather ResourceGatherNd ScatterUpdate ShardedFilename TemporaryVariable
    TensorArrayCloseV3 TensorArrayConcatV3 TensorArrayGatherV3 TensorArrayReadV3 TensorArrayScatterV3
    TensorArraySizeV3 TensorArraySplitV3 TensorArrayV3 TensorArrayWriteV3 TensorListConcatV2 TensorListElementShape
    TensorListFromTensor TensorListGather TensorListGetItem TensorListLength TensorListPopBack TensorListPushBack
    TensorListReserve TensorListResize TensorListScatterV2 TensorListSetItem TensorListSplit TensorListStack
    VarHandleOp Variable VariableShape VariableV2 VarIsInitializedOp
"""
_ALLOWED = frozenset(" ".join((_ARITHMETIC, _LAYERS, _SHAPES, _PICTURES_AND_TEXT, _RANDOM, _CONTROL, _STATE)).split())
# TensorFlow 1 reads its variables by operations in the graph itself.
_RESTORING = frozenset(("RestoreV2", "Restore", "RestoreSlice"))
_RUN_WHEN_LOADED = ("saved_model_main_op", "legacy_init_op")  # collections of TensorFlow 1


def refuse_others(path, meta):
    """Raises UsageError for a MetaGraphDef in which an operation runs that no classifier of pixels needs.

    What is in a graph and never runs, as what saves the variables, is not looked at.

    Args:
        path: for the message.
        meta: MetaGraphDef, parsed and not loaded.
    """
    is_version_1 = not meta.HasField("object_graph_def")
    nodes = _needed_nodes(meta) if is_version_1 else []
    for node in _with_functions(meta, nodes):
        if node.op not in _ALLOWED and not (is_version_1 and node.op in _RESTORING):
            raise UsageError(
                f"{path}: its graph runs the operation {printable(node.op)} ({printable(node.name)}), which is not one "
                "of those that classifiers of pixels are made of; others can read or write files, or call Python. If "
                "you trust who made it: --trust. Else export it as ONNX where it was trained"
            )


def _needed_nodes(meta):
    """Returns the nodes of a graph of TensorFlow 1 that a session runs: to load, to fill the variables, to answer."""
    names = [meta.saver_def.restore_op_name, meta.saver_def.filename_tensor_name]
    for signature in meta.signature_def.values():  # one is run when the graph is loaded
        names += [tensor.name for tensor in signature.outputs.values()]
    for name in _RUN_WHEN_LOADED:
        names += meta.collection_def[name].node_list.value if name in meta.collection_def else []
    by_name = {node.name: node for node in meta.graph_def.node}
    needed = {}
    while names:
        name = names.pop().lstrip("^").split(":")[0]
        if name in by_name and name not in needed:
            needed[name] = by_name[name]
            names.extend(by_name[name].input)
    return list(needed.values())


def _with_functions(meta, nodes):
    """Yields nodes, and those of all functions that they call or that TensorFlow 2 may call when it loads them."""
    functions = {function.signature.name: function for function in meta.graph_def.library.function}
    called = list(meta.object_graph_def.concrete_functions)
    # One of these may take the place of another when TensorFlow optimizes the graph.
    called += [name for name in functions if "api_implements" in functions[name].attr]
    seen = set()
    rest = list(nodes)
    while rest or called:
        while rest:
            node = rest.pop()
            yield node
            for value in node.attr.values():
                called += [function.name for function in [value.func] + list(value.list.func) if function.name]
        while called:
            name = called.pop()
            if name in functions and name not in seen:
                seen.add(name)
                rest.extend(functions[name].node_def)
