"""Messages of gRPC's own small services, described here: no package is worth taking for them.

Rule 1: they live in a pool of their own, so that a process may also import the published ones.
"""

from google.protobuf import descriptor_pb2, text_format
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

POOL = DescriptorPool()


def describe(text: str) -> FileDescriptor:
    """A proto file from the text form of its FileDescriptorProto."""
    file = text_format.Parse(text, descriptor_pb2.FileDescriptorProto())
    POOL.Add(file)
    return POOL.FindFileByName(file.name)


def message_class(file: FileDescriptor, name: str) -> type[Message]:
    return GetMessageClass(file.message_types_by_name[name])
