"""Installs the packages and the command picnic-edge."""

import re

from setuptools import find_packages, setup

with open("picnic_edge.py", encoding="utf-8") as source:
    VERSION = re.search(r'__version__ = "(.+?)"', source.read()).group(1)
with open("README.md", encoding="utf-8") as readme:
    LONG_DESCRIPTION = readme.read()

PANDAS = "pandas>=1.1"
ONNXRUNTIME = ["onnxruntime>=1.10,<2"]
OPENVINO = ["openvino>=2024.0; python_version >= '3.9'"]
LITERT = ["ai-edge-litert>=2.1,<3; python_version >= '3.9'"]
ONNX = [
    "onnx>=1.17,<2; python_version >= '3.10'",
    "onnx>=1.14,<1.17; python_version >= '3.8' and python_version < '3.10'",
    "onnx>=1.10,<1.11; python_version < '3.8'",
]
INT8 = ONNX + ["nncf>=3.4,<4; python_version >= '3.10'", "nncf>=2.18,<3; python_version == '3.9'"]
# NVIDIA's builder: wheels for Linux on x86-64, Python 3.8 to 3.14; 90 MB, 220 MB on the disk. The package tensorrt-rtx
# is a source distribution that fetches these.
TENSORRT_RTX = [
    name + ">=1.4,<2; python_version >= '3.8' and sys_platform == 'linux' and platform_machine == 'x86_64'"
    for name in ("tensorrt-rtx-cu12-libs", "tensorrt-rtx-cu12-bindings")
]
# The tests need it once: on the Python version that CI begins with.
TENSORRT_RTX_ONCE = [requirement.replace(">= '3.8'", "== '3.11'") for requirement in TENSORRT_RTX]
TRAIN = ONNX + [
    # A CPU build where there is one: a tenth of the download. With a GPU: pip install 'tensorflow[and-cuda]'.
    "tensorflow-cpu>=2.17,<2.22; python_version >= '3.10' and platform_machine == 'x86_64'",
    "tensorflow>=2.17,<2.22; python_version >= '3.10' and platform_machine != 'x86_64'",
    # Newer ones crash beside the protobuf that tf2onnx 1.16 needs.
    "tensorflow-cpu>=2.9,<2.16; python_version >= '3.8' and python_version < '3.10' and platform_machine == 'x86_64'",
    "tensorflow>=2.9,<2.16; python_version >= '3.8' and python_version < '3.10' and platform_machine != 'x86_64'",
    "tensorflow>=2.6,<2.8; python_version < '3.8'",
    "keras>=2.6,<2.8; python_version < '3.8'",
    # tf2onnx 1.17 goes with current onnx and protobuf; 1.16, the last for Python 3.8 and 3.9, needs older ones.
    "tf2onnx>=1.17,<2; python_version >= '3.10'",
    "tf2onnx>=1.16,<1.17; python_version >= '3.8' and python_version < '3.10'",
    "tf2onnx>=1.9,<1.15; python_version < '3.8'",
    "scikit-learn>=0.24",
    PANDAS,  # train.insight.evaluate.evaluate, in notebooks
]
IMPORT = ONNX + ONNXRUNTIME + ["scikit-learn>=0.24", "scipy>=1.5"]
REPORTS = ONNX + [
    "jinja2>=3,<4",  # the pages
    "matplotlib>=3.3,<4",  # their plots
    "tensorboard>=2.6,<3",  # train --tensorboard
    "cleanlab>=2.2,<3",  # explore: labels that look wrong
    "scikit-learn>=0.24",
]
LOADGEN = ["mlcommons-loadgen>=6,<7; python_version >= '3.9' and platform_machine == 'x86_64'"]  # has wheels there
PARQUET = ["pyarrow>=6"]
TABLES = PARQUET + [PANDAS, "openpyxl>=3"]
HEIF = ["pillow-heif>=0.9,<2"]
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.5,<10", "mkdocstrings[python]>=0.26,<2"]  # Python 3.9 and newer
CHECKS = [
    "pytest>=7,<10",
    "jsonschema>=3.2,<5",  # tests hold bench.json and manifests to their schemas
    "pytest-xdist>=2.5,<4",  # two files of tests at a time
    "coverage>=7.10,<8; python_version >= '3.9'",  # make test COVERAGE=1; older ones do not follow processes
    "ruff>=0.6,<1; python_version >= '3.8'",
    "mypy>=1.8,<3; python_version >= '3.9'",
]

setup(
    name="picnic-edge",
    version=VERSION,
    description="Train a product photo classifier, convert it to a checked engine, run it on an edge device",
    long_description=LONG_DESCRIPTION,
    long_description_content_type="text/markdown",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.6",  # the Jetson TX2's
        "Programming Language :: Python :: 3.9",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    python_requires=">=3.6",
    package_dir={"": "."},
    packages=find_packages(include=["edge_runtime*", "convert*", "train*", "benchmarks*"]),
    package_data={
        "edge_runtime.bundle": ["manifest.schema.json"],
        "edge_runtime.pages": ["*.html"],
        "train.insight.pages": ["*.html"],
        "benchmarks.bench": ["pages/*.html", "schema.json"],
    },
    py_modules=["picnic_edge"],
    entry_points={"console_scripts": ["picnic-edge=picnic_edge:main"]},
    # What runs on the device needs no more than this and one engine library.
    install_requires=[
        "numpy>=1.17",
        # Decoding and resizing; the build without windows needs no system libraries. Newer ones have no
        # wheel for Python 3.6: pip would compile them.
        "opencv-python-headless>=4.1; python_version >= '3.7'",
        "opencv-python-headless>=4.1,<4.6; python_version < '3.7'",
        "pillow>=8",  # headers, EXIF, GIF, TIFF and transparency
        # JPEG: says whether data is lost, where OpenCV paints the rest grey. 1.6.6 has no wheel for Python 3.6.
        "simplejpeg>=1.6,<2; python_version >= '3.7'",
        "simplejpeg>=1.6,<1.6.6; python_version < '3.7'",
        "tqdm>=4.57,<5",  # progress bars
    ],
    extras_require={
        "onnxruntime": ONNXRUNTIME,  # run on any CPU
        "openvino": OPENVINO,  # run faster on x86 CPUs
        "litert": LITERT,  # run on Arm and x86 CPUs; convert also needs TensorFlow (train)
        "int8": INT8 + ONNXRUNTIME + OPENVINO,  # convert --precision int8
        "tensorrt-rtx": TENSORRT_RTX + ONNX + ONNXRUNTIME,  # convert --to tensorrt-rtx; to run them pycuda, too
        "train": TRAIN + ONNXRUNTIME,  # train, export, evaluate
        "import": IMPORT,  # import ONNX files; Keras and TensorFlow's also need train
        "reports": REPORTS + ONNXRUNTIME,  # explore, explain, and the HTML page of evaluate --report
        "parquet": PARQUET,  # classify --out FILE.parquet
        "tables": TABLES,  # lists of photos as .xlsx and .parquet
        "heif": HEIF,  # photos as HEIC (iPhones) and AVIF
        "loadgen": LOADGEN,  # bench --loadgen
        "docs": DOCS,  # `make docs`
        "demo": TRAIN + REPORTS + ONNXRUNTIME + OPENVINO,  # all that `make demo` shows
        # `make test`
        "test": TRAIN
        + REPORTS
        + INT8
        + ONNXRUNTIME
        + OPENVINO
        + LITERT
        + TENSORRT_RTX_ONCE
        + TABLES
        + HEIF
        + LOADGEN
        + CHECKS,
    },
)
